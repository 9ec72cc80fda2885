"""The bibliography: who to credit for each method, and which methods a run has used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raybd.attacks import ATTACKS
from raybd.defenses import DEFENSES
from raybd.registry import BadInput, nearest
from raybd.report.contents import Card, ReportInput
from raybd.triggers import TRIGGERS


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One entry: what was used, where it comes from, and an address."""

    method: str
    source: str
    link: str


def _arxiv(number: str, method: str, source: str) -> Reference:
    return Reference(method=method, source=f"{source} arXiv {number}.", link=f"https://arxiv.org/abs/{number}")


def _doi(number: str, method: str, source: str) -> Reference:
    return Reference(method=method, source=source, link=f"https://doi.org/{number}")


BIBLIOGRAPHY = {
    "badnets": _arxiv(
        "1708.06733",
        "BadNets attack",
        "Gu, Dolan-Gavitt, Garg. BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply "
        "Chain. 2017.",
    ),
    "blended": _arxiv(
        "1712.05526",
        "Blended attack",
        "Chen, Liu, Li, Lu, Song. Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning. 2017.",
    ),
    "low_frequency": _arxiv(
        "2104.03413",
        "Low-frequency attack (LF; the pattern drawn at random)",
        "Zeng, Park, Mao, Jia. Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective. ICCV 2021.",
    ),
    "sig": _arxiv(
        "1902.11237",
        "SIG attack (sinusoidal signal, clean label)",
        "Barni, Kallas, Tondi. A New Backdoor Attack in CNNs by Training Set Corruption without Label Poisoning. "
        "ICIP 2019.",
    ),
    "wanet": _arxiv(
        "2102.10369",
        "WaNet attack (warping)",
        "Nguyen, Tran. WaNet: Imperceptible Warping-based Backdoor Attack. ICLR 2021.",
    ),
    "adaptive_blend": Reference(
        method="Adaptive-Blend attack",
        source="Qi, Xie, Li, Mahloujifar, Mittal. Revisiting the Assumption of Latent Separability for Backdoor "
        "Defenses. ICLR 2023.",
        link="https://openreview.net/forum?id=_wSHsgrVali",
    ),
    "label_consistent": _arxiv(
        "1912.02771",
        "Label-consistent attack (clean label)",
        "Turner, Tsipras, Madry. Label-Consistent Backdoor Attacks. 2019.",
    ),
    "input_aware": _arxiv(
        "2010.08138",
        "Input-aware attack",
        "Nguyen, Tran. Input-Aware Dynamic Backdoor Attack. NeurIPS 2020.",
    ),
    "trojan": _doi(
        "10.14722/ndss.2018.23291",
        "TrojanNN attack",
        "Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang. Trojaning Attack on Neural Networks. NDSS 2018.",
    ),
    "latent": _doi(
        "10.1145/3319535.3354209",
        "Latent backdoor attack",
        "Yao, Li, Zheng, Zhao. Latent Backdoor Attacks on Deep Neural Networks. CCS 2019.",
    ),
    "bad_encoder": _arxiv(
        "2108.00352",
        "BadEncoder attack",
        "Jia, Liu, Gong. BadEncoder: Backdoor Attacks to Pre-trained Encoders in Self-Supervised Learning. IEEE "
        "S&P 2022.",
    ),
    "super_fine_tuning": _arxiv(
        "2212.09067",
        "Super-fine-tuning",
        "Sha, He, Berrang, Humbert, Zhang. Fine-Tuning Is All You Need to Mitigate Backdoor Attacks. 2022.",
    ),
    "super_convergence": _arxiv(
        "1708.07120",
        "Cyclical learning rates with large peaks",
        "Smith, Topin. Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates. 2017.",
    ),
    "membership_inference": _arxiv(
        "1709.01604",
        "Membership inference by loss threshold",
        "Yeom, Giacomelli, Fredrikson, Jha. Privacy Risk in Machine Learning: Analyzing the Connection to "
        "Overfitting. CSF 2018.",
    ),
    "delong": _doi(
        "10.2307/2531595",
        "Intervals for AUCs and for paired differences of AUCs",
        "DeLong, DeLong, Clarke-Pearson. Comparing the Areas under Two or More Correlated Receiver Operating "
        "Characteristic Curves: A Nonparametric Approach. Biometrics 44 (1988) 837-845.",
    ),
    "wilson": _doi(
        "10.1080/01621459.1927.10502953",
        "Interval for one rate",
        "Wilson. Probable Inference, the Law of Succession, and Statistical Inference. Journal of the American "
        "Statistical Association 22 (1927) 209-212.",
    ),
    "newcombe": _doi(
        "10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C",
        "Paired interval for a difference of two rates on the same images",
        "Newcombe. Improved Confidence Intervals for the Difference between Binomial Proportions Based on Paired "
        "Data. Statistics in Medicine 17 (1998) 2635-2650.",
    ),
    "reinjection": _arxiv(
        "2410.09838",
        "Re-injection (the retuning attack)",
        "Min, Qin, Zhang, Shen, Cheng. Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor "
        "Defense. NeurIPS 2024.",
    ),
    "backdoorbench": _arxiv(
        "2206.12654",
        "Conventional fine-tuning as a baseline; attack success rate and robust accuracy",
        "Wu, Chen, Zhang, Zhu, Wei, Yuan, Shen. BackdoorBench: A Comprehensive Benchmark of Backdoor Learning. "
        "NeurIPS 2022.",
    ),
    "motpe": _doi(
        "10.1145/3377930.3389817",
        "Multi-objective TPE, the sampler of the search",
        "Ozaki, Tanigaki, Watanabe, Onishi. Multiobjective Tree-Structured Parzen Estimator for Computationally "
        "Expensive Optimization Problems. GECCO 2020.",
    ),
    "nsga2": _doi(
        "10.1109/4235.996017",
        "NSGA-II, the sampler of the search",
        "Deb, Pratap, Agarwal, Meyarivan. A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II. IEEE "
        "Transactions on Evolutionary Computation 6 (2002) 182-197.",
    ),
    "optuna": _arxiv(
        "1907.10902",
        "Optuna, which keeps the study and proposes settings",
        "Akiba, Sano, Yanase, Ohta, Koyama. Optuna: A Next-Generation Hyperparameter Optimization Framework. KDD 2019.",
    ),
    "ray": _arxiv(
        "1712.05889",
        "Ray, which runs the trials",
        "Moritz et al. Ray: A Distributed Framework for Emerging AI Applications. OSDI 2018.",
    ),
    "tune": _arxiv(
        "1807.05118",
        "Ray Tune, which schedules them",
        "Liaw, Liang, Nishihara, Moritz, Gonzalez, Stoica. Tune: A Research Platform for Distributed Model "
        "Selection and Training. 2018.",
    ),
}

_SAMPLERS = {"tpe": "motpe", "nsga2": "nsga2"}


def used(run: ReportInput) -> list[Reference]:
    """Return the references of every method that `run` shows or names, in the order of the bibliography.

    Raises:
        BadInput: for a method id that the bibliography does not know.
    """
    found = {*run.references, *_suspect(run), *_search(run), *_assessment(run.assessment)} - {""}
    for method in sorted(found):
        if method not in BIBLIOGRAPHY:
            raise BadInput(f"references: unknown method '{method}'{nearest(method, BIBLIOGRAPHY)}")
    return [reference for method, reference in BIBLIOGRAPHY.items() if method in found]


def _cited(table: Mapping[str, type[Any]], component: Mapping[str, Any] | None) -> set[str]:
    """The citation of a component, which its class carries; none for what came from outside the table."""
    cls = table.get(str((component or {}).get("kind")))
    return {str(cls.citation)} if cls else set()


def _suspect(run: ReportInput) -> set[str]:
    card = run.suspect_card
    return _cited(ATTACKS, card.get("attack")) | _cited(TRIGGERS, card.get("trigger"))


def _search(run: ReportInput) -> set[str]:
    if run.study is None:
        return set()
    samplers = {run.study["sampler"], *run.study.get("successors", {})}
    found = {"optuna", "wilson", "newcombe", "backdoorbench", *(_SAMPLERS.get(name, "") for name in samplers)}
    return found | _defense({"kind": run.space.get("defense")})


def _assessment(assessment: Card | None) -> set[str]:
    if assessment is None:
        return set()
    found = {"wilson", "newcombe", "backdoorbench"}
    for row in [assessment["selected"], *assessment["references"].values()]:
        found |= _defense(row.get("setting"))
    sequela = assessment.get("sequela") or {}
    if any((sequela.get("membership") or {}).values()):
        found |= {"membership_inference", "delong"}
    return found | ({"reinjection"} if sequela.get("reinjection") else set())


def _defense(setting: Mapping[str, Any] | None) -> set[str]:
    cited = _cited(DEFENSES, setting)
    return cited | ({"super_convergence"} if "super_fine_tuning" in cited else set())
