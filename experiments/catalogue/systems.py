"""The published systems, by family. What implements a system is typed here, the rest is found.

A row is `System(slug, arxiv, title, implementation=("jaxpg.methods.spo",))`; see `system.py`.
"""

from experiments.catalogue.system import System

FAMILIES = {
    "reasoning with verifiable rewards": (
        System(
            "aepo",
            "2510.08141",
            "AEPO (Arbitrary Entropy Policy Optimization) — entropy held at a target by REINFORCE "
            "on temperature-adjusted correct samples mixed into GRPO",
            ("jaxpg.methods.aepo", "jaxpg.methods.dcpo", "jaxpg.parts.entropy_control"),
        ),
        System(
            "bapo",
            "2510.18927",
            "BAPO (Balanced Policy Optimization with Adaptive Clipping) — PPO clip bounds "
            "searched per batch so that positive tokens keep a target share of the loss",
        ),
        System(
            "capo",
            "2510.00819",
            "CAPO (Curvature-Aware Policy Optimization) — token rejection by a last-layer "
            "second-order model of the next update",
            (
                "jaxpg.methods.capo",
                "jaxpg.methods.dr_capo",
                "jaxpg.methods.rein_capo",
                "jaxpg.parts.curvature",
            ),
        ),
        System(
            "d3s",
            "2509.22115",
            "D3S (Dynamic Dual-Level Down-Sampling) — train only on the rollouts that maximise "
            "advantage variance and on tokens with large |advantage| x entropy, relaxing over "
            "time",
            ("jaxpg.methods.d3s", "jaxpg.parts.down_sampling"),
        ),
        System(
            "high-entropy-tokens",
            "2506.01939",
            'High-entropy minority tokens ("beyond the 80/20 rule") — policy gradient only on the '
            "top 20 % most uncertain tokens",
        ),
        System(
            "hpt",
            "2509.04419",
            "HPT — Unified Policy Gradient Estimator (four interchangeable parts) and Hybrid "
            "Post-Training (a per-prompt switch between RL and SFT)",
            ("jaxpg.methods.hpt", "jaxpg.estimators.hpt"),
        ),
        System(
            "kdrl",
            "2506.02208",
            "KDRL — one objective for GRPO and on-policy distillation: reward advantage plus "
            "reverse KL to a teacher",
        ),
        System(
            "latentseek",
            "2505.13308",
            "LatentSeek — policy gradient at test time on the latent vectors of one single "
            "problem; no weight is changed",
        ),
        System(
            "otr",
            "2509.26313",
            "One-Token Rollout (OTR) — supervised fine-tuning recast as a one-step, token-level "
            "policy gradient",
        ),
        System(
            "pacs",
            "2509.02522",
            "PACS — RLVR as supervised learning: a cross-entropy loss on a policy-parameterised "
            "score couples actor and critic",
        ),
        System(
            "remix",
            "2507.06892",
            "ReMix — off-policy data for PPO/GRPO fine-tuning: mix-policy clipped loss, convex KL "
            "anchor, mid-training restart",
        ),
        System(
            "sec",
            "2505.14970",
            "SEC — Self-Evolving Curriculum: a non-stationary bandit over problem categories run "
            "alongside RL fine-tuning",
        ),
        System(
            "soft-grpo",
            "2511.06411",
            "SofT-GRPO — GRPO for soft-thinking models: Gumbel-perturbed soft tokens whose noise "
            "density is the policy likelihood",
        ),
        System(
            "spark",
            "2509.22624",
            "SPARK — one model trained by GRPO as policy AND as generative judge of its own "
            "answers, from recycled rollouts",
        ),
        System(
            "spo",
            "2509.13232",
            "SPO (Single-stream Policy Optimization) — one response per prompt, persistent Beta "
            "value tracker as baseline, batch-wide advantage whitening, prioritised prompts",
            ("jaxpg.methods.spo", "jaxpg.parts.trackers", "jaxpg.curricula.prioritised"),
        ),
    ),
    "preferences and offline data": (
        System(
            "a-lol",
            "2305.14718",
            "A-LoL (Advantage-Leftover Lunch RL) — offline policy gradient on existing responses: "
            "reference-policy advantage, drop the negatives, weight by pi/pi_ref",
        ),
        System(
            "copg",
            "2406.19185",
            "CoPG (Contrastive Policy Gradient) — supervised-style off-policy policy gradient on "
            "pairs of scored completions, no importance sampling",
        ),
        System(
            "ma-rlhf",
            "2410.02743",
            "MA-RLHF — PPO for language models with macro actions: values, rewards and GAE live "
            "on groups of tokens",
        ),
        System(
            "p3o",
            "2310.00212",
            "P3O (Pairwise Proximal Policy Optimization) — critic-free, trajectory-level PPO on "
            "reward DIFFERENCES of two responses to the same prompt",
        ),
        System(
            "rl4lms",
            "2210.01241",
            "RL4LMs / GRUE / NLPO — a library of building blocks for RL on text generators, a "
            "benchmark of reward-supervised generation tasks, and PPO restricted to a lagged "
            "top-p action set",
        ),
    ),
    "language agents": (
        System(
            "empg",
            "2509.09265",
            "EMPG (Entropy-Modulated Policy Gradients) — step-wise rescaling of a trajectory "
            "advantage by policy entropy, plus a bonus for a clear next step",
        ),
        System(
            "memact",
            "2510.12635",
            "Memory-as-Action (MemAct) — an agent that edits its own context by an ordinary "
            "action, trained with Dynamic Context Policy Optimization (DCPO)",
        ),
        System(
            "retroformer",
            "2308.02151",
            'Retroformer — a small "retrospective" language model learns, by policy gradient, to '
            "write reflections that make a frozen actor do better in its next trial",
        ),
        System(
            "stratified-grpo",
            "2510.06214",
            "Stratified GRPO — advantages normalised inside structural strata (number of search "
            "calls), blended with the global ones",
        ),
        System(
            "supo",
            "2510.06727",
            "SUPO — reinforcement learning of a tool-using agent that writes its own summaries, "
            "so that a rollout can outgrow the context window",
        ),
    ),
    "retrieval and prompts": (
        System(
            "grace",
            "2510.04506",
            "GRACE — an LLM writes a rationale of a text, the rationale is pooled into its "
            "embedding, and contrastive similarities are the reward of the writing policy",
        ),
        System(
            "pg-rank",
            "2310.04407",
            "Neural PG-RANK — REINFORCE on a Plackett-Luce ranking policy whose scores come from "
            "a language-model bi-encoder",
        ),
        System(
            "promptpg",
            "2209.14610",
            "PromptPG — REINFORCE chooses which in-context examples a frozen language model gets; "
            "introduced with the TabMWP data set of tabular math word problems",
        ),
        System(
            "rag-rl",
            "2401.06800",
            "RL-optimised RAG for domain chatbots — a small policy decides per query whether to "
            "FETCH documents or to SKIP retrieval, to save tokens at equal answer quality",
        ),
    ),
    "vision and language": (
        System(
            "satori",
            "2505.19094",
            "SATORI-R1 — GRPO for visual question answering with three checkable stages: caption, "
            "bounding boxes, answer",
        ),
        System(
            "vppo",
            "2510.09285",
            "VPPO (Visually-Perceptive Policy Optimization) — RLVR for vision-language models "
            "that trains only on image-dependent tokens and scales each advantage by the "
            "trajectory's image dependence",
        ),
    ),
    "perception": (
        System(
            "active-view",
            "2206.01153",
            "Active multi-view fine-grained recognition (AFGR / MAFR) — a policy that picks the "
            "next viewpoint of an object so that a recurrent classifier recognises it in few "
            "glances",
        ),
        System(
            "n2n",
            "1709.06030",
            "N2N Learning — two recurrent policies remove layers from a teacher network and then "
            "shrink the rest, trained by REINFORCE on accuracy x compression",
        ),
        System(
            "noise-mask",
            "2406.14568",
            "Policy Gradient-Driven Noise Mask — a tiny Beta-distribution policy that learns "
            "multiplicative noise masks for pretraining an image classifier",
        ),
        System(
            "pcpg",
            "2003.03983",
            "PCPG — pseudo-convolutional policy gradient: REINFORCE on character error rate where "
            "return and log-likelihood are both smoothed by a sliding window over time",
        ),
    ),
    "generation": (
        System(
            "awm",
            "2509.25050",
            "AWM (Advantage Weighted Matching) — RL for diffusion/flow models that weights the "
            "pretraining matching loss by the advantage; with its baselines DDPO and Flow-GRPO",
        ),
        System(
            "leakgan",
            "1709.08624",
            "LeakGAN (with SeqGAN, its baseline) — text GAN trained by policy gradient; the "
            "discriminator leaks its features to a Manager that steers the word-level Worker",
        ),
    ),
    "inventory and scheduling": (
        System(
            "hdpo",
            "2306.11246",
            "HDPO — Hindsight Differentiable Policy Optimization and a topology-aligned GNN "
            "policy for inventory networks",
            (
                "jaxpg.algorithms.pathwise",
                "jaxpg.policies",
                "jaxpg.simulation",
                "jaxpg_envs.inventory",
            ),
        ),
        System(
            "iot-scheduling",
            "2508.04334",
            "RL + ant-colony IoT data scheduler — a policy-gradient task allocator combined with "
            "ant colony optimisation for cloud nodes",
        ),
    ),
    "electric drives": (
        System(
            "electric-motor",
            "1910.09434",
            "Electric-motor environments (gym-electric-motor, GEM) — supply, converter, motor, "
            "load as one ODE with a reference-tracking reward",
            (
                "jaxpg_envs.motor",
                "jaxpg.algorithms.off_policy",
                "jaxpg.algorithms.td3",
                "jaxpg.algorithms.ddpg",
            ),
        ),
    ),
    "quality diversity": (
        System(
            "dcg-map-elites",
            "2303.03832",
            "DCG-MAP-Elites — MAP-Elites with a descriptor-conditioned TD3 critic/actor and "
            "distillation of the archive into one policy",
            (
                "jaxpg.quality_diversity",
                "jaxpg.algorithms.map_elites",
                "jaxpg.algorithms.dcg_map_elites",
                "jaxpg_envs.locomotion",
            ),
        ),
    ),
    "meta-learning": (
        System(
            "groove",
            "2310.02782",
            "GROOVE — meta-learning a general RL update rule (LPG) on levels curated by "
            "algorithmic regret",
            (
                "jaxpg.algorithms.meta",
                "jaxpg.networks.learned_rule",
                "jaxpg.curricula.level_buffer",
                "jaxpg.estimators.learned",
                "jaxpg_envs.gridworld",
            ),
        ),
    ),
    "control": (
        System(
            "ggtd",
            "2408.02295",
            "GGTD (GG-TDE) — critics that model the TD error as a generalised Gaussian and weight "
            "it by shape (aleatoric) and by kurtosis-corrected ensemble variance (epistemic)",
        ),
        System(
            "harpg",
            "2302.01734",
            "N-PG-IGT and (N)-HARPG — single-loop momentum policy gradients: extrapolated "
            "gradients (first order) and Hessian-vector correction (second order)",
        ),
        System(
            "hnpg",
            "2311.08384",
            "HNPG / hybrid actor-critic — on-policy natural policy gradient whose critic and "
            "actor also see offline data",
        ),
        System(
            "props",
            "2311.08290",
            "PROPS — Proximal Robust On-Policy Sampling: a behaviour policy that under-samples "
            "what the buffer already has too much of, so that the buffer stays on-policy",
        ),
    ),
}

SYSTEMS = tuple(system for systems in FAMILIES.values() for system in systems)
