"""Architectures that no library has in one piece: each function gives a module and its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Made = tuple[nn.Module, tuple[Tensor, ...], list[dict[int, str]]]

MODULES: dict[str, Callable[[], Made]] = {}


def module(build: Callable[[], Made]) -> Callable[[], Made]:
    MODULES[build.__name__] = build
    return build


def _tokens(length: int = 9) -> tuple[Tensor, ...]:
    return (torch.randint(0, 100, (2, length)),)


class Recurrent(nn.Module):
    """Embedding, recurrent layers, classifier on the last step or on every one."""

    def __init__(self, kind: type[nn.RNNBase], *, bidirectional: bool, every: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.layers = kind(32, 48, 2, bidirectional=bidirectional, batch_first=True)
        self.head = nn.Linear(96 if bidirectional else 48, 7)
        self.every = every

    def forward(self, ids: Tensor) -> Tensor:
        found, _ = self.layers(self.embed(ids))
        result: Tensor = self.head(found if self.every else found[:, -1])
        return result


@module
def lstm() -> Made:
    return Recurrent(nn.LSTM, bidirectional=False, every=False), _tokens(), [{0: "n", 1: "s"}]


@module
def bilstm() -> Made:
    return Recurrent(nn.LSTM, bidirectional=True, every=True), _tokens(), [{0: "n", 1: "s"}]


@module
def gru() -> Made:
    return Recurrent(nn.GRU, bidirectional=False, every=True), _tokens(), [{0: "n", 1: "s"}]


@module
def rnn() -> Made:
    return Recurrent(nn.RNN, bidirectional=True, every=True), _tokens(), [{0: "n", 1: "s"}]


class LstmAutoencoder(nn.Module):
    """A sequence to its last hidden state, and that repeated back to a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.LSTM(8, 32, batch_first=True)
        self.decode = nn.LSTM(32, 48, batch_first=True)
        self.head = nn.Linear(48, 8)

    def forward(self, x: Tensor) -> Tensor:
        _, (state, _) = self.encode(x)
        repeated = state[-1].unsqueeze(1).expand(-1, x.shape[1], -1)
        result: Tensor = self.head(self.decode(repeated)[0])
        return result


@module
def lstm_autoencoder() -> Made:
    return LstmAutoencoder(), (torch.randn(2, 9, 8),), [{0: "n", 1: "s"}]


class Attending(nn.Module):
    """A projection, PyTorch's own encoder and decoder layers, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 64)
        self.encode = nn.ModuleList(
            [nn.TransformerEncoderLayer(64, 4, 96, batch_first=True) for _ in range(2)]
        )
        self.decode = nn.TransformerDecoderLayer(64, 4, 96, batch_first=True, norm_first=True)
        self.head = nn.Linear(64, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = embedded = self.embed(x)
        for layer in self.encode:
            x = layer(x)
        result: Tensor = self.head(self.decode(embedded, x))
        return result


@module
def mha() -> Made:
    torch.backends.mha.set_fastpath_enabled(False)
    return Attending(), (torch.randn(2, 9, 16),), [{0: "n", 1: "s"}]


class GraphAttention(nn.Module):
    """One layer of GAT, over a dense adjacency matrix."""

    def __init__(self, width: int, out: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, heads * out, bias=False)
        self.source = nn.Parameter(torch.randn(heads, out) * 0.1)
        self.target = nn.Parameter(torch.randn(heads, out) * 0.1)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = self.project(x).view(x.shape[0], self.heads, -1)
        scores = (h * self.source).sum(-1).unsqueeze(1) + (h * self.target).sum(-1).unsqueeze(0)
        scores = functional.leaky_relu(scores, 0.2)
        scores = scores.masked_fill(adjacency.unsqueeze(-1) == 0, -1e9)
        return torch.einsum("ijh,jho->iho", scores.softmax(1), h).flatten(1)


class Gat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = GraphAttention(16, 24, 4)
        self.second = GraphAttention(96, 16, 4)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = functional.elu(self.first(x, adjacency))
        result: Tensor = self.head(functional.elu(self.second(x, adjacency)))
        return result


@module
def gat() -> Made:
    adjacency = (torch.rand(12, 12) > 0.5).float() + torch.eye(12)
    return Gat(), (torch.randn(12, 16), adjacency), [{0: "n"}, {0: "n", 1: "n"}]


class EdgeConv(nn.Module):
    """DGCNN's layer: features of the nearest neighbours, minus the point's own, beside its own."""

    def __init__(self, width: int, out: int, k: int = 6) -> None:
        super().__init__()
        self.k = k
        self.layer = nn.Sequential(
            nn.Conv2d(2 * width, out, 1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)
        )

    def forward(self, x: Tensor) -> Tensor:  # [n, c, p]
        inner = -2 * torch.matmul(x.transpose(2, 1), x)
        squared = (x**2).sum(1, keepdim=True)
        nearest = (-squared - inner - squared.transpose(2, 1)).topk(self.k, -1)[1]
        n, c, p = x.shape
        points = x.transpose(2, 1).reshape(n * p, c)
        offset = torch.arange(n).view(-1, 1, 1) * p
        near = points[(nearest + offset).view(-1)].view(n, p, self.k, c)
        own = points.view(n, p, 1, c).expand(-1, -1, self.k, -1)
        result: Tensor = self.layer(torch.cat([near - own, own], 3).permute(0, 3, 1, 2))
        return result.max(-1)[0]


class Dgcnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EdgeConv(3, 32), EdgeConv(32, 32), EdgeConv(32, 64)])
        self.merge = nn.Sequential(nn.Conv1d(128, 128, 1), nn.BatchNorm1d(128), nn.LeakyReLU(0.2))
        self.head = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        x = self.merge(torch.cat(found, 1))
        result: Tensor = self.head(torch.cat([x.amax(-1), x.mean(-1)], 1))
        return result


@module
def dgcnn() -> Made:
    return Dgcnn(), (torch.randn(2, 3, 32),), [{}]


def _double(width: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for given in (width, out):
        layers += [nn.Conv2d(given, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Three levels; one way up by transposed convolution, the other by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16, 32, 64]
        self.down = nn.ModuleList(map(_double, [3, *widths[:-1]], widths))
        self.up = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.right = nn.ModuleList([_double(64, 32), _double(48, 16)])
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down[0](x)
        b = self.down[1](functional.max_pool2d(a, 2))
        c = self.down[2](functional.max_pool2d(b, 2))
        b = self.right[0](torch.cat([self.up(c), b], 1))
        wide = functional.interpolate(b, scale_factor=2, mode="bilinear", align_corners=False)
        result: Tensor = self.head(self.right[1](torch.cat([wide, a], 1)))
        return result


@module
def unet() -> Made:
    return UNet(), (torch.randn(2, 3, 32, 32),), [{0: "n", 2: "h", 3: "w"}]


class Vae(nn.Module):
    """Convolutions, a flattened bottleneck of means and variances, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.stats = nn.Linear(64 * 8 * 8, 2 * 16)
        self.widen = nn.Linear(16, 64 * 8 * 8)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)
        )

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.stats(self.encode(x)).chunk(2, -1)
        z = mean + noise * torch.exp(0.5 * log_variance)
        result: Tensor = torch.sigmoid(self.decode(self.widen(z).view(-1, 64, 8, 8)))
        return result


@module
def vae() -> Made:
    inputs = (torch.randn(2, 3, 32, 32), torch.randn(2, 16))
    return Vae(), inputs, [{0: "n"}, {0: "n"}]


class Vqvae(nn.Module):
    """The nearest of 32 codes stands for each position of the encoded image."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 24, 4, 2, 1)
        )
        self.codes = nn.Parameter(torch.randn(32, 24))
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(24, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(x).permute(0, 2, 3, 1)
        distance = (self.codes**2).sum(1) - 2 * z @ self.codes.t()
        result: Tensor = self.decode(self.codes[distance.argmin(-1)].permute(0, 3, 1, 2))
        return result


@module
def vqvae() -> Made:
    return Vqvae(), (torch.randn(2, 3, 16, 16),), [{0: "n"}]


@module
def gan_generator() -> Made:
    def up(width: int, out: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(width, out, 4, 2, 1), nn.BatchNorm2d(out), nn.ReLU()]

    layers = [nn.Linear(16, 64 * 16), nn.Unflatten(1, (64, 4, 4)), *up(64, 48), *up(48, 32)]
    made = nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh())
    return made, (torch.randn(2, 16),), [{0: "n"}]


class SuperResolution(nn.Module):
    """Residual blocks, then channels to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.PReLU(64), nn.Conv2d(64, 32, 1))
                for _ in range(3)
            ]
        )
        self.up = nn.Sequential(nn.Conv2d(32, 128, 3, padding=1), nn.PixelShuffle(2))
        self.head = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        result: Tensor = self.head(self.up(x))
        return result


@module
def pixelshuffle() -> Made:
    return SuperResolution(), (torch.randn(2, 3, 16, 16),), [{0: "n", 2: "h", 3: "w"}]


class PointNet(nn.Module):
    """A learned transform of the points by a matrix of their own features."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Conv1d(3, 32, 1), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.matrix = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 9))
        self.features = nn.Sequential(
            nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 128, 1)
        )
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.matrix(self.transform(x).amax(-1)).view(-1, 3, 3)
        result: Tensor = self.head(self.features(torch.bmm(matrix, x)).amax(-1))
        return result


@module
def pointnet() -> Made:
    return PointNet(), (torch.randn(2, 3, 32),), [{0: "n", 2: "p"}]


class Causal(nn.Module):
    """A dilated convolution that sees the past only, with a residual."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.gate = nn.Conv1d(width, 2 * width, 3, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.mix(functional.glu(self.gate(functional.pad(x, (self.past, 0))), 1))
        return x + result


@module
def tcn() -> Made:
    layers = [nn.Conv1d(4, 32, 1), *(Causal(32, 2**i) for i in range(4)), nn.Conv1d(32, 4, 1)]
    return nn.Sequential(*layers), (torch.randn(2, 4, 40),), [{0: "n", 2: "t"}]


class Mixer(nn.Module):
    """Tokens and channels mixed in turns, without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 48, 8, 8)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))
        self.norms = nn.ModuleList([nn.LayerNorm(48) for _ in range(3)])
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norms[1](x))
        result: Tensor = self.head(self.norms[2](x).mean(1))
        return result


@module
def mlp_mixer() -> Made:
    return Mixer(), (torch.randn(2, 3, 32, 32),), [{0: "n"}]


class Capsules(nn.Module):
    """Two rounds of routing by agreement between 64 small capsules and 5 large ones."""

    def __init__(self) -> None:
        super().__init__()
        self.primary = nn.Conv2d(3, 32, 8, 8)
        self.votes = nn.Parameter(torch.randn(64, 5, 12, 8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        u = self.primary(x).view(x.shape[0], 4, 8, 16).permute(0, 1, 3, 2).reshape(-1, 64, 8)
        votes = torch.einsum("ijde,nie->nijd", self.votes, u)
        logits = torch.zeros_like(votes[..., 0])
        for _ in range(2):
            s = (logits.softmax(2).unsqueeze(-1) * votes).sum(1)
            squared = (s**2).sum(-1, keepdim=True)
            v = s * squared.sqrt() / (1 + squared)
            logits = logits + (votes * v.unsqueeze(1)).sum(-1)
        return (v**2).sum(-1).sqrt()


@module
def capsules() -> Made:
    return Capsules(), (torch.randn(2, 3, 32, 32),), [{0: "n"}]
