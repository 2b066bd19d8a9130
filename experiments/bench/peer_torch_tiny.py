"""A plain torch loop of GRPO on fork sums: prints updates per second for each line read.

As fast as torch goes without a compiler: fused projections, fused attention and norms, a cache of
keys and values filled once for each prompt, seeds one after the other.
"""

import copy
import json
import pathlib
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

folder, num_seeds, num_updates = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
settings = json.loads((folder / "config.json").read_text())
LAYERS, WIDTH = settings["num_hidden_layers"], settings["hidden_size"]
HEADS, VOCABULARY = settings["num_attention_heads"], settings["vocab_size"]
HEAD = WIDTH // HEADS
PROMPTS, GROUP, LENGTH, MODULUS = 32, 8, 4, 5
RESPONSE = 2 * LENGTH + 2
torch.set_num_threads(2)
angle = torch.arange(LENGTH + RESPONSE)[:, None] * settings.get("rope_theta", 10000.0) ** (
    -torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD
)
COSINE = torch.cat([angle.cos(), angle.cos()], 1).float()
SINE = torch.cat([-angle.sin(), angle.sin()], 1).float()


class Model(torch.nn.Module):
    """A Llama with fused projections."""

    def __init__(self, weights):
        super().__init__()

        def take(*names):
            return torch.nn.Parameter(torch.cat([weights[name] for name in names]))

        self.embedding = take("model.embed_tokens.weight")
        self.norm = take("model.norm.weight")
        self.layers = torch.nn.ModuleList()
        for index in range(LAYERS):
            at = f"model.layers.{index}."
            layer = torch.nn.Module()
            layer.qkv = take(*(f"{at}self_attn.{name}_proj.weight" for name in "qkv"))
            layer.output = take(f"{at}self_attn.o_proj.weight")
            layer.gate_up = take(f"{at}mlp.gate_proj.weight", f"{at}mlp.up_proj.weight")
            layer.down = take(f"{at}mlp.down_proj.weight")
            layer.before_attention = take(f"{at}input_layernorm.weight")
            layer.before_mlp = take(f"{at}post_attention_layernorm.weight")
            self.layers.append(layer)

    def forward(self, tokens, cache=None, start=0):
        """Last hidden states of tokens `[B, T]`; writes the cache from `start` on."""
        rows, length = tokens.shape
        stream = F.embedding(tokens, self.embedding)
        cosine, sine = COSINE[start : start + length], SINE[start : start + length]
        for index, layer in enumerate(self.layers):
            hidden = F.rms_norm(stream, (WIDTH,), layer.before_attention, 1e-5)
            heads = F.linear(hidden, layer.qkv).view(rows, length, 3, HEADS, HEAD)
            query, key, value = heads.permute(2, 0, 3, 1, 4)
            query = query * cosine + torch.roll(query, HEAD // 2, -1) * sine
            key = key * cosine + torch.roll(key, HEAD // 2, -1) * sine
            if cache is not None:
                keys, values = cache[index]
                keys[:, :, start : start + length] = key
                values[:, :, start : start + length] = value
                if start:
                    key, value = keys[:, :, : start + length], values[:, :, : start + length]
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
            attended = attended.transpose(1, 2).reshape(rows, length, WIDTH)
            stream = stream + F.linear(attended, layer.output)
            hidden = F.rms_norm(stream, (WIDTH,), layer.before_mlp, 1e-5)
            gate, up = F.linear(hidden, layer.gate_up).chunk(2, -1)
            stream = stream + F.linear(F.silu(gate) * up, layer.down)
        return F.rms_norm(stream, (WIDTH,), self.norm, 1e-5)

    def log_probs(self, hidden):
        """Over the vocabulary."""
        return F.log_softmax(F.linear(hidden, self.embedding), -1)


@torch.no_grad()
def generate(model, prompts):
    """Tokens, mask and log-probabilities `[B, R]`."""
    rows = PROMPTS * GROUP
    shape = (PROMPTS, HEADS, LENGTH + RESPONSE, HEAD)
    cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(LAYERS)]
    hidden = model(prompts, cache)[:, -1].repeat_interleave(GROUP, 0)
    cache = [tuple(x.repeat_interleave(GROUP, 0) for x in layer) for layer in cache]
    tokens = torch.zeros(rows, RESPONSE, dtype=torch.long)
    mask = torch.zeros(rows, RESPONSE, dtype=torch.bool)
    log_probs = torch.zeros(rows, RESPONSE)
    done = torch.zeros(rows, dtype=torch.bool)
    for index in range(RESPONSE):
        every = model.log_probs(hidden)
        token = torch.multinomial(every.exp(), 1).masked_fill(done[:, None], 0)
        tokens[:, index], mask[:, index] = token[:, 0], ~done
        log_probs[:, index] = every.gather(1, token)[:, 0]
        done = done | (token[:, 0] == VOCABULARY - 1)
        if index == RESPONSE - 1 or bool(done.all()):
            break
        hidden = model(token, cache, LENGTH + index)[:, 0]
    return tokens, mask, log_probs


def update(model, optimiser):
    """One update: collect, score, one gradient step."""
    prompts = torch.randint(0, MODULUS, (PROMPTS, LENGTH))
    tokens, mask, old = generate(model, prompts)
    prompts = prompts.repeat_interleave(GROUP, 0)
    right = (tokens[:, 2 * LENGTH - 1] == prompts.sum(1) % MODULUS) & mask[:, 2 * LENGTH - 1]
    reward = right.float().view(PROMPTS, GROUP)
    advantage = reward - reward.mean(1, keepdim=True)
    advantage = (advantage / (reward.std(1, keepdim=True) + 1e-6)).view(-1, 1)
    hidden = model(torch.cat([prompts, tokens[:, :-1]], 1))[:, LENGTH - 1 :]
    log_probs = model.log_probs(hidden).gather(2, tokens[..., None])[..., 0]
    ratio = (log_probs - old).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) * mask
    loss = -(gain.sum(1) / mask.sum(1)).mean()
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


start = Model(load_file(folder / "model.safetensors"))


def measure():
    """Updates per second of all seeds."""
    models = [copy.deepcopy(start) for _ in range(num_seeds)]
    began = time.perf_counter()
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(num_updates):
            update(model, optimiser)
    return num_seeds * num_updates / (time.perf_counter() - began)


began = time.perf_counter()
measure()
ready = {"version": torch.__version__, "compile_seconds": time.perf_counter() - began}
print(json.dumps(ready), flush=True)
for _ in sys.stdin:
    print(measure(), flush=True)
