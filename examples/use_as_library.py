"""Compose, run and read a run from Python. Needs nothing; the smallest run takes a minute."""

import tapir_exp


def main() -> None:
    """Print the metrics of a tiny run, its hardest row, and a response of its last student."""
    config = tapir_exp.compose(["debug=tiny"])
    run = tapir_exp.run(config)

    for metrics in run.metrics:
        print(f"S_{metrics['round']}: loss {metrics['train/final_loss']:.3f}, gap {metrics.get('gap/mean')}")

    gaps = run.rows("verdicts-0").to_pandas().sort_values("gap", ascending=False)
    print(run.lineage(gaps["id"].iloc[0]))

    model, tokenizer = run.student()
    chat = [{"role": "user", "content": "What is 2 plus 3?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
