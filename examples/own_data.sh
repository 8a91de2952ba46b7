#!/bin/sh
# Distil your own instructions from an API teacher.
# Needs: OPENAI_API_KEY, mine.jsonl (instruction, input, output), and the student's weights from the hub (1 GB).
set -eu

tapir plan experiment=own_data seeds.path=mine.jsonl teacher=gpt_4o student=qwen1_5_0_5b
tapir experiment=own_data seeds.path=mine.jsonl teacher=gpt_4o student=qwen1_5_0_5b spend.max_usd=20
tapir export outputs/latest my-student
