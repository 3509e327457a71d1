"""The loss of VQ-Diffusion in PyTorch as the authors wrote it: logarithms of one-hot vectors, classes second."""

import torch

FLOOR = 1e-30


def log_one_hot(x, states):
    """(batch, pixels) -> (batch, states, pixels), log 1e-30 where it is 0."""
    return torch.nn.functional.one_hot(x, states).permute(0, 2, 1).double().clamp(min=FLOOR).log()


def log_add_exp(a, b):
    largest = torch.maximum(a, b)
    return largest + torch.log(torch.exp(a - largest) + torch.exp(b - largest))


class PublishedLoss:
    """float64. ``lines``: start and end of the cumulative alpha and gamma."""

    def __init__(self, states, timesteps, lines, mask_weight=1.0, auxiliary_weight=5e-4, adaptive=True):
        self.states, self.timesteps = states, timesteps
        self.mask_weight, self.auxiliary_weight, self.adaptive = mask_weight, auxiliary_weight, adaptive
        classes = states - 1
        # one entry more than timesteps, for t = -1: nothing has happened
        kept, masked = (
            torch.cat((torch.linspace(start, end, timesteps, dtype=torch.float64), torch.tensor([begin])))
            for (start, end), begin in zip(lines, (1.0, 0.0))
        )
        before = torch.arange(timesteps + 1) - 1
        one_kept = kept / kept[before]
        one_masked = 1 - (1 - masked) / (1 - masked[before])
        self.cumulative = self._logs(kept, masked, classes)
        self.one_step = self._logs(one_kept, one_masked, classes)

    @staticmethod
    def _logs(kept, masked, classes):
        replaced = (1 - kept - masked) / classes
        return [each.clamp(min=FLOOR).log() for each in (kept, replaced, masked, 1 - masked)]

    def forward_step(self, log_x, logs, t):
        """log q(x_t | x) for a distribution over x, or over x_t the other way round, as the authors use it."""
        a, b, c, not_c = (each[t][:, None, None] for each in logs)
        classes = log_add_exp(log_x[:, :-1] + a, b)
        return torch.cat((classes, log_add_exp(log_x[:, -1:] + not_c, c)), 1)

    def posterior(self, log_p, x_t, t):
        """log p(x_{t-1} | x_t), (batch, states, pixels), from log p(x_0), (batch, classes, pixels)."""
        log_x_t = log_one_hot(x_t, self.states)
        is_mask = (x_t == self.states - 1)[:, None]
        nothing = torch.full_like(log_p[:, :1], FLOOR).log()
        backward = self.forward_step(log_x_t, self.cumulative, t)[:, :-1]
        backward = torch.where(is_mask, self.cumulative[2][t][:, None, None], backward)
        one_step = self.forward_step(log_x_t, self.one_step, t)[:, :-1]
        one_step = torch.where(is_mask, self.one_step[2][t][:, None, None], one_step)
        one_step = torch.cat((one_step, torch.where(is_mask, torch.zeros_like(nothing), nothing)), 1)
        q = torch.cat((log_p - backward, nothing), 1)
        total = torch.logsumexp(q, 1, keepdim=True)
        return (self.forward_step(q - total, self.cumulative, t - 1) + one_step + total).clamp(-70, 0)

    def __call__(self, log_p, x_0, x_t, t, probability):
        """log_p: (batch, classes, pixels) float64; x_0, x_t: (batch, pixels); t, probability: (batch,)."""
        log_x_0 = log_one_hot(x_0, self.states - 1)
        log_model, log_true = self.posterior(log_p, x_t, t), self.posterior(log_x_0, x_t, t)
        weights = torch.where(x_t == self.states - 1, self.mask_weight, 1.0)
        kl = ((log_true.exp() * (log_true - log_model)).sum(1) * weights).sum(1)
        likelihood = -(log_x_0.exp() * log_model[:, :-1]).sum((1, 2))
        auxiliary = ((log_x_0.exp() * (log_x_0 - log_p)).sum(1) * weights).sum(1)
        first = t == 0
        kl, auxiliary = torch.where(first, likelihood, kl), torch.where(first, likelihood, auxiliary)
        factor = (1 - t / self.timesteps) + 1 if self.adaptive else 1.0
        losses = (kl + factor * self.auxiliary_weight * auxiliary) / probability
        return losses.sum() / x_0.numel()
