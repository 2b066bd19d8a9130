"""A plain torch simulator of inventory networks: gradient steps per second for each line read.

Fixed traces, T periods, the gradient through all of them, one Adam step. Everything that does not
change over time (where orders land, statics of the graph) is computed once, outside of the loop.
"""

import itertools
import json
import sys
import time

import torch
from torch import nn

kind, batch, num_steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(2)
torch.manual_seed(0)
HORIZON = 50


def mlp(sizes, last=None):
    """Linear layers with an ELU between them (and `last` behind them)."""
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ELU()]
    return nn.Sequential(*layers[:-1], *([] if last is None else [last]))


def passed(slots, carried):
    """What is left joins what arrives next; everything under way comes a period nearer."""
    first = (carried + slots[..., 1])[..., None]
    return torch.cat([first, slots[..., 2:], torch.zeros_like(first)], -1)


class OneStore(nn.Module):
    """Lost demand, lead time 4, underage cost 9; an MLP of the slots."""

    def __init__(self):
        super().__init__()
        self.net = mlp([4, 32, 32, 32, 1])
        self.demand = torch.poisson(torch.full((batch, HORIZON), 5.0))
        self.start = torch.rand(batch, 4) * 5.0
        self.landing = torch.eye(4)[3]

    def forward(self):
        """Mean cost per period."""
        slots, total = self.start, 0.0
        for time_step in range(HORIZON):
            order = nn.functional.softplus(self.net(slots) + 1.0)
            left = slots[:, 0] - self.demand[:, time_step]
            over = left.relu()
            total = total + 9.0 * (-left).relu().sum() + over.sum()
            slots = passed(slots, over) + order * self.landing
        return total / (batch * HORIZON)


class Warehouse(nn.Module):
    """One warehouse and five stores with lost demand; subclasses decide the orders."""

    def __init__(self):
        super().__init__()
        stores = 5
        self.mean = torch.tensor([3.743, 4.75, 4.555, 3.801, 6.852])
        self.std = torch.tensor([1.765, 2.124, 1.622, 1.405, 1.714])
        self.holding = torch.tensor([1.0856, 1.0232, 1.0071, 1.0662, 0.9958])
        self.underage = torch.tensor([10.2367, 9.3307, 6.9748, 8.447, 10.5191])
        self.lead = torch.tensor([2, 3, 2, 2, 2])
        covariance = 0.5 * self.std[:, None] * self.std + 0.5 * torch.diag(self.std**2)
        factor = torch.linalg.cholesky(covariance)
        normal = torch.randn(batch, HORIZON, stores)
        self.demand = (self.mean + normal @ factor.T).relu()
        self.start = torch.rand(batch, stores, 3) * self.mean[:, None]
        self.landing = torch.eye(3)[self.lead - 1]
        self.warehouse_landing = torch.eye(3)[2]

    def forward(self):
        """Mean cost per period and store."""
        stores, warehouse, total = self.start, torch.zeros(batch, 3), 0.0
        for time_step in range(HORIZON):
            orders, order = self.decide(stores, warehouse)
            left = stores[..., 0] - self.demand[:, time_step]
            over = left.relu()
            kept = warehouse[:, 0] - orders.sum(1)
            total = total + (self.underage * (-left).relu() + self.holding * over).sum()
            total = total + 0.3 * kept.relu().sum()
            stores = passed(stores, over) + orders[..., None] * self.landing
            warehouse = passed(warehouse, kept) + order[:, None] * self.warehouse_landing
        return total / (batch * HORIZON * 5)


class Vanilla(Warehouse):
    """An MLP of width 512 with softmax shares of the warehouse's stock."""

    def __init__(self):
        super().__init__()
        self.net = mlp([18, 512, 512, 512, 6])

    def decide(self, stores, warehouse):
        """Orders of the stores and of the warehouse."""
        out = self.net(torch.cat([stores.flatten(1), warehouse], 1))
        logits = torch.cat([out[:, :5], torch.ones(batch, 1)], 1)
        shares = logits.softmax(1)[:, :5] * warehouse[:, :1]
        return shares, out[:, 5].sigmoid() * 4.0 * self.mean.sum()


class Graph(Warehouse):
    """The topology-aligned graph network, width 32, one round of messages."""

    def __init__(self):
        super().__init__()
        elu, width = nn.ELU(), 32
        self.node = mlp([3 + 4, width, width], elu)
        self.edge = mlp([2 * width + 1, width, width], elu)
        self.node_update = mlp([3 * width, width, width], elu)
        self.edge_update = mlp([3 * width, width, width], elu)
        self.head = mlp([width, width, 1])
        with torch.no_grad():
            self.head[-1].bias.fill_(5.0)
        # Nodes: warehouse, stores; 6 stands for outside. Edges: inner, supplier, customers, self.
        source = [0] * 5 + [6] + [1, 2, 3, 4, 5] + [0]
        target = [1, 2, 3, 4, 5] + [0] + [6] * 5 + [0]
        self.source, self.target = torch.tensor(source), torch.tensor(target)
        lead = torch.cat([self.lead, torch.tensor([3]), torch.zeros(6)]).float()
        self.lead_column = lead[None, :, None].expand(batch, -1, -1)
        incoming = torch.eye(7)[self.target].T[:6]
        outgoing = torch.eye(7)[self.source].T[:6]
        self.incoming = incoming / incoming.sum(1, keepdim=True).sqrt()
        self.outgoing = outgoing / outgoing.sum(1, keepdim=True).sqrt()
        per_store = torch.stack([self.holding, self.underage, self.mean, self.std], 1)
        statics = torch.cat([torch.tensor([[0.3, 0.0, 0.0, 0.0]]), per_store])
        self.statics = statics.expand(batch, -1, -1)

    def ends(self, nodes):
        """Features at both ends of every edge, zeros outside."""
        padded = torch.cat([nodes, torch.zeros(batch, 1, nodes.shape[2])], 1)
        return padded[:, self.source], padded[:, self.target]

    def decide(self, stores, warehouse):
        """Orders of the stores and of the warehouse."""
        slots = torch.cat([warehouse[:, None], stores], 1)
        nodes = self.node(torch.cat([slots, self.statics], 2))
        edges = self.edge(torch.cat([*self.ends(nodes), self.lead_column], 2))
        messages = [self.incoming @ edges, self.outgoing @ edges]
        nodes = nodes + self.node_update(torch.cat([nodes, *messages], 2))
        edges = edges + self.edge_update(torch.cat([edges, *self.ends(nodes)], 2))
        wanted = nn.functional.softplus(self.head(edges))[..., 0]
        out = torch.cat([wanted[:, :5], wanted[:, -1:]], 1)
        scale = (warehouse[:, :1] / (out.sum(1, keepdim=True) + 1e-10)).clamp(max=1.0)
        return out[:, :5] * scale, wanted[:, 5]


model = {"one_store": OneStore, "warehouse": Vanilla, "graph": Graph}[kind]()
optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)


def measure():
    """Gradient steps per second."""
    began = time.perf_counter()
    for _ in range(num_steps):
        optimiser.zero_grad()
        model().backward()
        optimiser.step()
    return num_steps / (time.perf_counter() - began)


began = time.perf_counter()
measure()
ready = {"version": torch.__version__, "compile_seconds": time.perf_counter() - began}
print(json.dumps(ready), flush=True)
for _ in sys.stdin:
    print(measure(), flush=True)
