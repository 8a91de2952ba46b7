#!/bin/sh
# A teacher of one provider and a judge of another, so that the judge does not favour its own family.
# Needs: DASHSCOPE_API_KEY for the teacher, OPENAI_API_KEY for the judge, and mine.jsonl.
set -eu

tapir plan experiment=own_data seeds.path=mine.jsonl teacher=qwen_max judge=gpt_4o student=qwen1_5_1_8b
tapir experiment=own_data seeds.path=mine.jsonl teacher=qwen_max judge=gpt_4o student=qwen1_5_1_8b spend.max_calls=20000
tapir cache list --store outputs/store
