"""Slow but obvious definitions that the tests of both A2C files compare the scripts with."""

import numpy as np
import torch


def gae_by_definition(rewards, values, terminated, done, gamma, lam):
    """Sum (gamma lambda)^l delta[t+l] for each row separately, up to the end of its episode."""
    advantages = np.zeros(rewards.shape)
    for t, n in np.ndindex(rewards.shape):
        factor = 1.0
        for s in range(t, len(rewards)):
            bootstrap = 0.0 if terminated[s, n] else values[s + 1, n]
            advantages[t, n] += factor * (rewards[s, n] + gamma * bootstrap - values[s, n])
            factor *= gamma * lam
            if done[s, n]:
                break
    return advantages


def explained_variance(agent, rollout, args):
    """1 - Var[G - V] / Var[G] of the transitions."""
    v = agent.value(torch.from_numpy(rollout.obs)).detach().numpy()
    ends = rollout.terminated, rollout.done
    gae = gae_by_definition(rollout.rewards, v, *ends, args.gamma, args.gae_lambda)
    returns, values = ((gae + v[:-1])[rollout.live], v[:-1][rollout.live])
    return 1 - np.var(returns - values) / np.var(returns)
