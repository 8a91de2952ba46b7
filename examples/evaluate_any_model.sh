#!/bin/sh
# Evaluate models that this project did not train, and outputs that exist already.
# Needs: OPENAI_API_KEY for the judge; the data of AlpacaEval and MT-Bench (docs/guides/evaluation.md).
set -eu

tapir evaluate evals=mt_bench judge=gpt_4 student=custom student.model=Qwen/Qwen1.5-1.8B-Chat
tapir evaluate evals=alpaca_eval judge=gpt_4_1106_preview evals.alpaca_eval.outputs=model_outputs.json
tapir report --paper outputs/evaluations
