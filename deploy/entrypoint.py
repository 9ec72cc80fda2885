#!/usr/bin/env -S python3 -P
"""raybd-job STUDY [OPTIONS]: what a cluster runs instead of `raybd run STUDY [OPTIONS]`.

`raybd run` goes on where it was, so this may be started as often as the cluster likes. But a scheduler retries every
exit other than 0, and "nothing feasible" (3) and "the gate refused" (4) are results: the same search would only find
the same again. They are reported, with the report that says why, and end the job as finished; where the run folder's
copy on S3 could not be brought up to date, `raybd run` ends with 1 or 2 in their place. All else keeps its code.

It is raybd itself, in one process. To stop a job Ray sends TERM to its program and to everything below it, Slurm and
Docker to the program alone; a shell in between that hands TERM on would, under Ray, send raybd a second one, which it
takes as "at once".
"""

import sys

from raybd.cli import app

MEANING = {
    0: "promoted",
    2: "bad input, or another machine is at work there; see the last lines",
    3: "nothing feasible; finished, see the run's report.html",
    4: "the gate refused; finished, see the run's report.html",
}
FINISHED = (0, 3, 4)


def main() -> int:
    """Run the study; return the exit code for the scheduler."""
    try:
        app(["run", *sys.argv[1:]], prog_name="raybd")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    said = MEANING.get(code, "not finished; start it again and it goes on")
    sys.stderr.write(f"raybd-job: exit {code}: {said}\n")
    return 0 if code in FINISHED else code


if __name__ == "__main__":
    sys.exit(main())
