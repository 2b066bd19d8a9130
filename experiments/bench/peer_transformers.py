"""transformers on a saved model: prints tokens per second for each line read.

Arguments: the folder, `sampling`, `training` or `lora`, and for the first the number of new tokens.
`tokens.json` of the folder holds the prompts, or the rows to learn.
"""

import json
import os
import pathlib
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(os.cpu_count())
transformers.utils.logging.disable_progress_bar()
tokens = torch.tensor(json.loads((folder / "tokens.json").read_text()))
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def sampling():
    """Draws from the whole distribution; no row ends early."""
    new = int(sys.argv[3])
    with torch.inference_mode():
        rows = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=0,
        )
    assert rows.shape[1] == tokens.shape[1] + new
    return tokens.shape[0] * new


def training():
    """One step of gradient descent on the mean log-probability."""
    logits = model(tokens, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return tokens.numel()


if what == "lora":
    import peft

    targets = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets)
    )
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimiser = torch.optim.SGD(trained, lr=1e-6)
measured = sampling if what == "sampling" else training
began = time.perf_counter()
measured()
ready = {"version": transformers.__version__, "compile_seconds": time.perf_counter() - began}
print(json.dumps(ready), flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    count = measured()
    print(count / (time.perf_counter() - began), flush=True)
