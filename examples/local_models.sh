#!/bin/sh
# Student, teacher, judge and classifier on this machine: SmolLM2-135M learns from Qwen2.5-Coder-1.5B.
# Needs: make local (1.2 GB), and alpaca_data.json. No key and no GPU.
set -eu

tapir plan experiment=local_llm seeds.path=alpaca_data.json
tapir experiment=local_llm_smoke seeds.path=alpaca_data.json
tapir experiment=local_llm seeds.path=alpaca_data.json time_budget_minutes=40
