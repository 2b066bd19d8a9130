"""TRL's GRPOTrainer on a saved model: prints the seconds of one step for each line read.

Arguments: the folder, `full` or `lora`, samples of each prompt, new tokens. `prompts.json` of the
folder holds the prompts of one step.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import peft
import torch
import transformers
import trl

# The trainer prints, too.
answers, sys.stdout = sys.stdout, sys.stderr
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
samples, new = int(sys.argv[3]), int(sys.argv[4])
prompts = json.loads((folder / "prompts.json").read_text())
torch.set_num_threads(os.cpu_count())


def share_of_even(completion_ids, **_):
    """The share of even tokens."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


class Measured(transformers.TrainerCallback):
    """Every step waits for a line; the first, which warms up, does not."""

    began = None
    first = True

    def on_step_begin(self, args, state, control, **kwargs):
        """Waits for a line."""
        if not self.first and not sys.stdin.readline():
            os._exit(0)
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Answers it."""
        took = time.perf_counter() - self.began
        ready = {"version": trl.__version__, "compile_seconds": took}
        print(json.dumps(ready) if self.first else took, file=answers, flush=True)
        self.first = False


linear = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
adapters = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=linear)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
trainer = trl.GRPOTrainer(
    model=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    processing_class=tokenizer,
    reward_funcs=share_of_even,
    train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
    peft_config=adapters if what == "lora" else None,
    callbacks=[Measured()],
    args=trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=len(prompts) * samples,
        num_generations=samples,
        max_completion_length=new,
        generation_kwargs={"min_new_tokens": new},
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=1e-6,
        max_grad_norm=1.0,
        max_steps=1000,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    ),
)
trainer.train()
