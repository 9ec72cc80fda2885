"""Seeds by name are independent; code that only knows torch's global generator gets a stream of its own."""

import pytest
import torch

from raybd.seeds import IsolatedRandom, derive, generator


def test_a_seed_depends_on_every_name_and_on_their_order() -> None:
    seeds = [
        derive(0),
        derive(1),
        derive(0, "a"),
        derive(0, "b"),
        derive(0, "a", "b"),
        derive(0, "b", "a"),
        derive(0, 1),
    ]
    assert len(set(seeds)) == len(seeds)
    assert derive(3, "trial", 7) == derive(3, "trial", 7)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_are_the_same_on_every_machine_and_version() -> None:
    assert derive(0, "batches") == 2312056721596985416


def test_neighbouring_seeds_do_not_give_neighbouring_streams() -> None:
    first = torch.stack([torch.rand(64, generator=generator(seed)) for seed in range(32)])
    assert torch.corrcoef(first).fill_diagonal_(0).abs().max() < 0.6


def test_a_generator_repeats_by_seed_and_names() -> None:
    draws = [torch.rand(5, generator=generator(*key)) for key in ((0, "a"), (0, "a"), (0, "b"))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_inside_the_block_runs_a_private_stream_and_outside_all_is_as_it_was() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    with IsolatedRandom(1):
        inner = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), inner)


def test_entered_again_the_block_goes_on_where_it_stopped() -> None:
    stream = IsolatedRandom(1)
    parts = []
    for _ in range(3):
        with stream:
            parts.append(torch.rand(2))
        torch.rand(5)  # what others draw in between does not matter
    with IsolatedRandom(1):
        assert torch.equal(torch.cat(parts), torch.rand(6))


def test_an_error_inside_gives_the_global_stream_back() -> None:
    def fails() -> None:
        with IsolatedRandom(1):
            torch.rand(3)
            raise OSError

    before = torch.get_rng_state()
    with pytest.raises(OSError):  # noqa: PT011
        fails()
    assert torch.equal(torch.get_rng_state(), before)
