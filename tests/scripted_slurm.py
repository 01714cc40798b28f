"""SLURM's commands as small scripts: a job goes through the states that it was given, one at each call of squeue.

Each line of ``plan`` is one job's, its states parted by commas. ``RUN`` runs the job's command to its end and lists it
no more; "STATE:why" has a reason. A job without a line of its own is one ``RUN``.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

SBATCH = """#!/bin/sh
cd "{folder}" || exit 1
[ ! -f refused ] || {{ cat refused >&2; exit 1; }}
job=$(($(cat last 2>/dev/null || echo 0) + 1))
echo $job > last
for word in "$@"; do
  printf '%s\\n' "$word" >> $job.words
  case $word in
    --wrap=*) printf '%s\\n' "${{word#--wrap=}}" > $job.sh ;;
    --chdir=*) printf '%s' "${{word#--chdir=}}" > $job.chdir ;;
    --output=*) printf '%s' "${{word#--output=}}" | sed "s/%j/$job/" > $job.output ;;
  esac
done
sed -n 1p plan | tr , '\\n' > $job.states
[ -s $job.states ] || echo RUN > $job.states
sed -i 1d plan
echo "$job;cluster"
"""
SQUEUE = """#!/bin/sh
cd "{folder}" || exit 1
if [ -s down ]; then
  sed -i 1d down
  echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
  exit 1
fi
for states in *.states; do
  job=${{states%.states}}
  state=$(sed -n 1p "$states")
  sed -i 1d "$states"
  case $state in
    "") ;;
    RUN)
      (cd "$(cat $job.chdir)" && SLURM_JOB_ID=$job SLURMD_NODENAME=n1 sh "{folder}/$job.sh") \
        >> "$(cat $job.output)" 2>&1 ;;
    *:*) echo "$job|${{state%%:*}}|${{state#*:}}" ;;
    *) echo "$job|$state|None" ;;
  esac
done
"""
SCANCEL = """#!/bin/sh
cd "{folder}" || exit 1
echo "$1" >> cancelled
: > "$1.states"
"""
# No accounting here: nothing may ask for it.
SACCT = """#!/bin/sh
echo "sacct: asked" >> "{folder}/accounting"
echo "Slurm accounting storage is disabled" >&2
exit 1
"""


class ScriptedSlurm:
    """Its commands come first on PATH; what they were told, and what becomes of jobs, is in ``folder``."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, plan: Sequence[str] = ()) -> None:
        self.folder = folder
        folder.mkdir()
        scripts = {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "sacct": SACCT}
        for name, text in scripts.items():
            (folder / name).write_text(text.format(folder=folder))
            (folder / name).chmod(0o755)
        self.plan(*plan)
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def plan(self, *jobs: str) -> None:
        """What becomes of the jobs that are submitted next."""
        (self.folder / "plan").write_text("".join(f"{states}\n" for states in jobs))

    def down(self, calls: int) -> None:
        """Squeue fails so often from now on."""
        (self.folder / "down").write_text("down\n" * calls)

    def refuse(self, why: str) -> None:
        """Sbatch takes nothing any more."""
        (self.folder / "refused").write_text(f"{why}\n")

    def words(self, job: int) -> list[str]:
        """What sbatch was told of a job."""
        return (self.folder / f"{job}.words").read_text().splitlines()

    @property
    def submitted(self) -> int:
        last = self.folder / "last"
        return int(last.read_text()) if last.is_file() else 0

    @property
    def cancelled(self) -> list[str]:
        path = self.folder / "cancelled"
        return path.read_text().split() if path.is_file() else []

    @property
    def asked_for_accounting(self) -> bool:
        return (self.folder / "accounting").exists()
