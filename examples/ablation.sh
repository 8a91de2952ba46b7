#!/bin/sh
# Nine arms over five training seeds in the lab, at equal training tokens.
# Needs: nothing. The full sweep takes about an hour and a half on two cores; the second command is a small one.
set -eu

tapir plan --config-name lab_ablation
tapir -m debug=tiny arm=tapir,no_refinement seed=0,1
tapir --config-name lab_ablation
