#!/usr/bin/env bash
# The methods and their controls on minilab, five seeds: about half an hour on 2 cores (two runs at a time, one thread each).
# A finished cell is skipped: run it again after an interruption.
#     bash experiments/minilab/run.sh [folder for runs and store]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-runs-minilab}
mkdir -p "$work" && cd "$work"
export OMP_NUM_THREADS=1
seeds=${SEEDS:-0,1,2,3,4}
cells=(hydra/launcher=joblib hydra.launcher.n_jobs=2 trainer.progress_bar=false "seed=$seeds")

for seed in ${seeds//,/ }; do tinyllm rationales "seed=$seed" > /dev/null; done
tinyllm train -m "${cells[@]}" method=inference,full_ft,tinyllm
tinyllm train -m "${cells[@]}" method=step_by_step method.teacher=terse alpha.terse=1,2
tinyllm train -m "${cells[@]}" method=step_by_step method.teacher=wordy alpha.wordy=1,2
tinyllm train -m "${cells[@]}" ablation=shuffled_rationales
tinyllm train -m "${cells[@]}" method=full_ft trainer.max_epochs=${MATCHED_EPOCHS:-18}
python "$here/summarise.py" runs "$here"
