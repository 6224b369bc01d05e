"""Do the tests notice the mistakes that people make in these algorithms?

A mutant is a copy of this repository with one mistake in one script. It is killed if a test fails.
Its tests are those of this script in tests/test_<script>.py and in the files for all scripts.
Tests of the source text are left out, because any change makes them fail (test_repository.py).

    python tests/mutants.py                         all mutants of all scripts
    python tests/mutants.py ddpg.py --jobs 1        those of one script, one at a time
    python tests/mutants.py --only terminal         those whose names contain a text

The exit status is 1 if a mutant survives, unless the table says why it does not change behaviour.
"""

import argparse
import ast
import contextlib
import gc
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
COPIED = "*.py", "*.toml", "*.txt", "*.md", "tests"  # what the tests need
FLAGS = ["-xq", "-n0", "--tb=no", "--assert=plain", "-pno:cacheprovider", "--basetemp=temp"]
# Imported once, before the processes are forked. No module of this repository is among them.
SLOW_IMPORTS = "torch._dynamo", "torch.utils.tensorboard", "gymnasium", "tyro", "xdist.plugin"

# Each block is one mutant: its name, the old text after "-", the new text after "+". The old text
# occurs once in the script. A line "= reason" marks an equivalent mutant, which changes nothing.
EVERYWHERE = """
the seed of the networks is ignored
-     torch.manual_seed(args.seed)
+     torch.manual_seed(0)

the seed of the environments is ignored
- SeedSequence([args.seed, self.step])
+ SeedSequence([0, self.step])

the evaluation samples actions
- agent.act(obs, greedy=True)
+ agent.act(obs)

the evaluation is not seeded
- env.reset(seed=i)
+ env.reset()
"""
PLUMBING = """
each reset has the same seed
- self.reset_seed = None  # only the first reset is seeded
+ pass

a resumed run repeats its episodes
- SeedSequence([args.seed, self.step])
+ SeedSequence([args.seed])

evaluation changes the random numbers of the training
-         stack.callback(torch.set_rng_state, torch.get_rng_state())

train changes the random numbers of its caller
- train = restoring()(train)
+ restoring()(train)

--torch-threads is ignored
-     torch.set_num_threads(args.torch_threads)
+     args.torch_threads

a resumed run with another seed goes on with the old random numbers
- if self.args.seed == state["args"]["seed"]:
+ if True:

all episodes of an evaluation are the same
- env.reset(seed=i)
+ env.reset(seed=0)

the last policy is kept as the best one
- if mean > self.best_return:
+ if True:

a resumed optimizer forgets its moments
- saved = part.state_dict() | {"state": saved["state"]}
+ saved = part.state_dict()

a resumed optimizer keeps its old learning rates
- saved = part.state_dict() | {"state": saved["state"]}
+ saved = dict(saved)

the target return may be reached by fewer than 100 episodes
- len(returns) == 100 and sum(returns) / 100
+ returns and sum(returns) / len(returns)

each report saves a checkpoint
- if self.report_time >= self.save_time + self.args.checkpoint_interval:
+ if True:

the progress bar does not move
- self.bar.update(self.step - self.bar.n)
+ pass

the progress bar shows no return
- self.bar.set_postfix_str(f"return {recent:.1f}", refresh=False)
+ pass

the progress bar of a resumed run starts at 0
- initial=self.step, unit
+ initial=0, unit

the speed of a resumed run includes earlier steps
- (self.step - self.start_step) / (self.report_time
+ self.step / (self.report_time

the values of the flags are not logged
- f"|{name}|{value}|
+ f"|{name}|0|

a resumed run with another seed has the saved random numbers
- torch.manual_seed((self.args.seed + self.step) % 2**64)  # GPU generators are not saved
+ torch.set_rng_state(state["rng"])

a resumed run logs its old episodes again
- self.start_step, self.num_logged = self.step, len(self.episodes)
+ self.start_step, self.num_logged = self.step, 0

a policy with a negative return is never the best
- self.report_interval, self.best_return = report_interval, -np.inf
+ self.report_interval, self.best_return = report_interval, 0.0

the device auto is refused
- if name not in ("auto", found.type):
+ if name != found.type:

a namespace becomes a folder
- re.sub("[/:]", "_", name)
+ name

an ignored interrupt is handled
- if signal.getsignal(number) != signal.SIG_IGN:
+ if True:

--resume may be abbreviated
- allow_abbrev=False
+ allow_abbrev=True

the hint to resume is not quoted
- continue with --resume {shlex.quote(str(self.checkpoint))}
+ continue with --resume {self.checkpoint}

the training environment is not closed
- self.env.close()
+ pass

the evaluation environment is not closed
-         returns = evaluate(self.parts["agent"], env, self.args.eval_episodes)
-         env.close()
+         returns = evaluate(self.parts["agent"], env, self.args.eval_episodes)

a missing extra is named without the command
- hint = f'; with uv: uv run
+ extra = f'; with uv: uv run

an environment's ValueError has a traceback
- NotImplementedError, TypeError, ValueError
+ NotImplementedError, TypeError

a missing moviepy is called a wrong --env-id
- elif isinstance(error, missing) and not film:
+ elif isinstance(error, missing):

a checkpoint of another environment is resumed
- found.get(name, wanted[name]) != wanted[name]:
+ found.get(name, wanted[name]) != found.get(name, wanted[name]):

a flag may not be at its bound
- all(low <= x <= high for
+ all(low < x <= high for

the environment's global random numbers are not seeded
- np.random.seed(seed % 2**32)
+ pass

a float may be given for an integer
- if kind is int and isinstance(value, float) and value.is_integer():
+ if kind is int and isinstance(value, float):
"""
CATEGORICAL = """
the actor's last layer starts large
- args.activation, gain=0.01)
+ args.activation, gain=1.0)

the first action of the space is taken to be 0
- return actions + space.start
+ return actions
"""
SAMPLER = """
the sampler's Gumbel noise has the wrong sign
- logits = logits - torch.empty_like
+ logits = logits + torch.empty_like

the softmax is over the batch
- self.actor(obs).log_softmax(-1)
+ self.actor(obs).log_softmax(0)

the entropy is not weighted by the probabilities
- entropy = -(log_pi.exp() * log_pi).sum(-1)
+ entropy = -log_pi.sum(-1)

greedy actions are sampled
-         if not greedy:
+         if True:
"""
A2C = """
the critic's last layer starts small
- args.activation, gain=1.0)
+ args.activation, gain=0.01)

bootstrap at a terminal state
- gamma * values[1:] * (terminated == 0)
+ gamma * values[1:]

no bootstrap at a truncation
- values[1:] * (terminated == 0) - values
+ values[1:] * (done == 0) - values

the trace crosses a truncation
- decay = gamma * gae_lambda * (done == 0)
+ decay = gamma * gae_lambda * (terminated == 0)

the trace crosses every end
- decay = gamma * gae_lambda * (done == 0)
+ decay = gamma * gae_lambda * (done == done)

the trace is not discounted
- decay = gamma * gae_lambda * (done == 0)
+ decay = gae_lambda * (done == 0)

the next value is not discounted
- rewards + gamma * values[1:]
+ rewards + values[1:]

the last step of the rollout is left at zero
-     for t in reversed(range(len(rewards) - 1)):
+     advantages[-1] = 0
+     for t in reversed(range(len(rewards) - 1)):

the last step but one has no trace
- reversed(range(len(rewards) - 1))
+ reversed(range(len(rewards) - 2))

gamma and lambda are swapped
- args.gamma, args.gae_lambda)
+ args.gae_lambda, args.gamma)

truncations count as terminations in the advantages
- ends = rollout.terminated, rollout.done
+ ends = rollout.done, rollout.done

the advantage is not detached
- -(advantages.detach() * log_probs)
+ -(advantages * log_probs)

the policy gradient has the wrong sign
- return -(advantages
+ return (advantages

the policy gradient is summed over the batch
- * log_probs).mean()
+ * log_probs).sum()

the ratio is inverted
- (log_probs - old_log_probs).exp()
+ (old_log_probs - log_probs).exp()

PPO takes the larger of the two terms
- return -torch.min(
+ return -torch.max(

PPO has only the clipped term
- return -torch.min(ratios * advantages, ratios.clamp(1 - c, 1 + c) * advantages).mean()
+ return -(ratios.clamp(1 - c, 1 + c) * advantages).mean()

the ratio is clipped on one side only
- ratios.clamp(1 - c, 1 + c)
+ ratios.clamp(max=1 + c)

the lower end of the clipping range is 1 / (1 + c)
- ratios.clamp(1 - c, 1 + c)
+ ratios.clamp(1 / (1 + c), 1 + c)

PPO's advantage is not detached
- .exp(), advantages.detach()
+ .exp(), advantages

old log-probabilities are recomputed at each step
- if k == actor_start:
+ if k >= actor_start:

old log-probabilities are not detached
- old_log_probs = log_probs.detach()
+ old_log_probs = log_probs

PPO recomputes the advantages at each step
- if k == 0 or not is_ppo:
+ if True:

A2C computes the advantages once
- if k == 0 or not is_ppo:
+ if k == 0:

KL without its correction
- (ratios - 1 - log_ratios).mean()
+ -log_ratios.mean()

the clipped fraction counts one side only
- ((ratios - 1).abs() > c)
+ ((ratios - 1) > c)

kappa measures from the current weights
-     for k in range(args.critic_updates):
+     for k in range(args.critic_updates):
+         w_old = nn.utils.parameters_to_vector(agent.critic.parameters()).detach()

w_old is not detached
- parameters_to_vector(agent.critic.parameters()).detach()
+ parameters_to_vector(agent.critic.parameters())

kappa has a mean instead of a sum
- (w - w_old).pow(2).sum()
+ (w - w_old).pow(2).mean()

advantages are divided by the sample standard deviation
- x.std(correction=0)
+ x.std()

advantages are centred only
- return (x - x.mean()) / (x.std(correction=0) + 1e-8)
+ return x - x.mean()

advantages are scaled only
- return (x - x.mean()) / (
+ return x / (

advantages are always normalised
- normalise(advantages) if args.norm_adv else advantages
+ normalise(advantages)

the critic's targets are normalised
- value_loss(values[:-1][live], returns,
+ value_loss(values[:-1][live], normalise(returns),

the critic's targets contain the normalised advantages
- value_loss(values[:-1][live], returns,
+ value_loss(values[:-1][live], returns - advantages + normalise(advantages),

the critic's targets are the advantages
- (advantages + v[:-1])[live]
+ advantages[live]

gradient through the target
- loss(values, returns.detach())
+ loss(values, returns)

Huber and squared error are swapped
- if kind == "huber"
+ if kind != "huber"

the entropy has the wrong sign
- - args.ent_coef * entropies.mean()
+ + args.ent_coef * entropies.mean()

the entropy is detached
- args.ent_coef * entropies.mean()
+ args.ent_coef * entropies.detach().mean()

the entropy is summed over the batch
- args.ent_coef * entropies.mean()
+ args.ent_coef * entropies.sum()

the coefficient of the value loss is dropped
- loss = args.vf_coef * critic_loss
+ loss = critic_loss

both networks are clipped by their joint norm
- [nn.utils.clip_grad_norm_(group, args.max_grad_norm) for group in groups]
+ [nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)]

max_grad_norm is ignored
- clip_grad_norm_(group, args.max_grad_norm)
+ clip_grad_norm_(group, np.inf)

gradients add up over the critic steps
-         optimizer.zero_grad()
+         k or optimizer.zero_grad()

critic-only steps give the actor gradients of zero
- optimizer.zero_grad()
+ optimizer.zero_grad(set_to_none=False)

the actor takes the first step instead of the last
-         if k >= actor_start:
+         if k < args.actor_updates:

the actor takes every step
-         if k >= actor_start:
+         if k >= 0:

the learning rates are swapped
- (args.actor_lr, args.critic_lr)
+ (args.critic_lr, args.actor_lr)

annealing cannot be disabled
- / args.total_timesteps if args.anneal_lr else 1
+ / args.total_timesteps

the learning rate is that of the end of the rollout
-             remaining = 1 - run.step / args.total_timesteps if args.anneal_lr else 1
-             for group, rate in zip(optimizer.param_groups, (args.actor_lr, args.critic_lr)):
-                 group["lr"] = rate * remaining
-             rollout.collect(agent, run)
+             rollout.collect(agent, run)
+             remaining = 1 - run.step / args.total_timesteps if args.anneal_lr else 1
+             for group, rate in zip(optimizer.param_groups, (args.actor_lr, args.critic_lr)):
+                 group["lr"] = rate * remaining

reset rows are learned from
- self.live[t] = ~self.done[t - 1]
+ self.live[t] = True

a reset in the first row of a rollout is learned from
- self.live[t] = ~self.done[t - 1]
+ self.live[t] = ~self.done[t - 1] if t else True

rewards of resets are kept
- np.where(self.live[t], self.rewards[t], 0)
+ self.rewards[t]

truncations are stored as terminations
- self.done[t] = self.terminated[t] | truncated
+ self.done[t] = self.terminated[t] = self.terminated[t] | truncated

truncations are ignored
- self.done[t] = self.terminated[t] | truncated
+ self.done[t] = self.terminated[t]

a rollout does not begin where the previous one ended
-         self.obs[0] = self.obs[-1]
+         self.obs[0] = self.obs[0]

the explained variance is that after the update
-             metrics = diagnostics(agent, rollout, args) if run.due else {}
-             losses = update(agent, optimizer, rollout, args)
+             losses = update(agent, optimizer, rollout, args)
+             metrics = diagnostics(agent, rollout, args) if run.due else {}

the optimizer is always Adam
- if args.optimizer == "adam":
+ if True:

the shared body is not shared
- nn.Sequential(*self.actor[:-1], self.critic[-1])
+ nn.Sequential(*self.critic[:-1], self.critic[-1])
"""
A2C_DISCRETE = """
the environment gets another sample than the one that is stored
- to_env(self.actions[t],
+ to_env(agent.act(obs).cpu().numpy(),

the wind has the same power in every episode
- wind_power = float(np.clip(normal(15.0, 2.0), 0.01, 19.99))
+ wind_power = 15.0

there is no wind
- bool(self.np_random.integers(2))
+ bool(self.np_random.integers(1))

the physics is not seeded
-             self.env.reset(seed=seed)  # seeds
+             self.env.reset()  # seeds

the evaluation is on the random physics, too
- wrappers = [DomainRandomization, PlainEnv]
+ wrappers, env = [DomainRandomization, PlainEnv], DomainRandomization(env)
"""
A2C_CONTINUOUS = """
rewards that are all 0 become NaN
- std = (agent.return_statistics.var.item() + 1e-8) ** 0.5
+ std = np.float64(agent.return_statistics.var.item()) ** 0.5

the environment's actions are clipped to less than the bounds
- to_env(self.actions[t],
+ to_env(self.actions[t].clip(-0.9, 0.9),

the actor's last layer starts large
- args.activation, gain=0.01)
+ args.activation, gain=1.0)

the log-probability is that of the clipped action
- ((actions - mean)
+ ((actions.clamp(-1, 1) - mean)

the clipped action is stored
- self.actions[t] = agent.act(obs).cpu()
+ self.actions[t] = agent.act(obs).cpu().clamp(-1, 1)

the log-probability is not normalised
- .pow(2) - log_norm
+ .pow(2)

the log-probability is divided by sigma instead of its square
- / log_std.exp()).pow(2)
+ / (log_std / 2).exp()).pow(2)

the log-probability is the mean over the dimensions
- return log_pi.sum(-1), (
+ return log_pi.mean(-1), (

the entropy lacks one half per dimension
- (log_norm + 0.5).sum(-1)
+ log_norm.sum(-1)

the entropy is the mean over the dimensions
- (log_norm + 0.5).sum(-1)
+ (log_norm + 0.5).mean(-1)

log sigma has no lower bound
- clamp_(-5, 2)
+ clamp_(max=2)

log sigma has no upper bound
- clamp_(-5, 2)
+ clamp_(min=-5)

log sigma is not learned
- nn.Parameter(torch.full((act_size,), args.log_std_init))
+ nn.Parameter(torch.full((act_size,), args.log_std_init), requires_grad=False)

the initial sigma is that of log sigma = 0
- torch.full((act_size,), args.log_std_init)
+ torch.zeros(act_size)

samples scatter by the variance
- mean + log_std.exp() * torch.randn_like(mean)
+ mean + (2 * log_std).exp() * torch.randn_like(mean)

all dimensions have the same noise
- torch.randn_like(mean)
+ torch.randn_like(mean[..., :1])

greedy actions are sampled
- return mean if greedy else mean +
+ return mean +

actions are scaled by the upper bound only
- ((1 - share) * space.low + share * space.high)
+ (actions * space.high)

the bounds are those of the first dimension
- ((1 - share) * space.low + share * space.high)
+ ((1 - share) * space.low[0] + share * space.high[0])

actions are not clipped to the bounds
- share * space.high).clip(space.low, space.high)
+ share * space.high)

evaluation changes the observation statistics
-         mean, std = self.mean.to(x)
+         self.update(x.detach().numpy().reshape(-1, *self.mean.shape))
+         mean, std = self.mean.to(x)

the statistics are not saved
- "mean", torch.zeros(shape, dtype=torch.float64))
+ "mean", torch.zeros(shape, dtype=torch.float64), persistent=False)

the count of the statistics is not saved
- "count", torch.zeros((), dtype=torch.float64))
+ "count", torch.zeros((), dtype=torch.float64), persistent=False)

the statistics forget the distant past
- len(batch) / (self.count + len(batch))
+ len(batch) / (self.count.clamp(max=500) + len(batch))

the distance between the batches' means is left out
- share).add_(share * (1 - share) * delta**2)
+ share)

the batch's variance is the sample variance
- batch.var(0, correction=0)
+ batch.var(0)

normalised observations are not clipped
- ((x - mean) / std).clamp(-10, 10)
+ (x - mean) / std

observations are divided by the variance
- (self.var + 1e-8).sqrt().to(x)
+ (self.var + 1e-8).to(x)

the critic sees raw observations
- self.critic(self.obs_statistics(obs))
+ self.critic(obs)

the actor sees raw observations
- self.actor(self.obs_statistics(obs))
+ self.actor(obs)

the observation statistics change before the update
-             losses = update(agent, optimizer, rollout, args)
-             run.check(**losses)
-             if args.norm_obs:  # after update(), which must use the same statistics as collect()
-                 agent.obs_statistics.update(rollout.obs[:-1][rollout.live])
+             if args.norm_obs:
+                 agent.obs_statistics.update(rollout.obs[:-1][rollout.live])
+             losses = update(agent, optimizer, rollout, args)
+             run.check(**losses)

the observation statistics include the reset rows
- rollout.obs[:-1][rollout.live])
+ rollout.obs[:-1].reshape(-1, rollout.obs.shape[-1]))

the observation statistics never change
-             if args.norm_obs:
+             if False:

observations are always normalised
- RunningStatistics(obs_size) if args.norm_obs else nn.Identity()
+ RunningStatistics(obs_size)

the mean of the rewards is subtracted
- (rollout.rewards / std)
+ ((rollout.rewards - rollout.rewards.mean()) / std)

rewards are divided by their own standard deviation
- update(rollout.discounted[rollout.live])
+ update(rollout.rewards[rollout.live])

the scale of the rewards includes the reset rows
- update(rollout.discounted[rollout.live])
+ update(rollout.discounted.ravel())

rewards are divided by the variance
- (agent.return_statistics.var.item() + 1e-8) ** 0.5
+ agent.return_statistics.var.item() + 1e-8

scaled rewards are not clipped
- (rollout.rewards / std).clip(-10, 10)
+ rollout.rewards / std

the discounted sum does not end with the episode
- self.rewards[t] + so_far * self.live[t]
+ self.rewards[t] + so_far

the discounted sum is not discounted
- self.args.gamma * self.discounted[t - 1]
+ self.discounted[t - 1]

the discounted sum begins anew in each rollout
- self.args.gamma * self.discounted[t - 1]
+ self.args.gamma * self.discounted[t - 1] * bool(t)

rewards are always scaled
- if args.norm_reward:
+ if True:
"""
AC_TD0 = """
the environment gets another sample than the one that is learned from
- env.step(to_env(action, env.action_space))
+ env.step(to_env(sample(log_pi.detach()).item(), env.action_space))

bootstrap at a terminal state
- gamma * (1 - terminated) * next_value
+ gamma * next_value

truncation counts as termination
- reward, next_obs, next_action, terminated)
+ reward, next_obs, next_action, done)

the next value is not discounted
- reward + gamma * (1 - terminated)
+ reward + (1 - terminated)

the critic's gradient has the wrong sign
- loss = -delta * value
+ loss = delta * value

the actor's gradient has the wrong sign
- - gamma_t * weight * log_prob
+ + gamma_t * weight * log_prob

gradient through the target
-     loss = -delta * value
+     target = agent.critic(step.next_obs)[:, step.next_action if is_q else 0]
+     loss = -delta * (value - args.gamma * (1 - step.terminated) * target)

gradient through the TD error
- td_error(step.reward, value.item(),
+ td_error(step.reward, value,

QAC weights by the TD error
- weight = value.item() if is_q else delta
+ weight = delta

the state critic weights by its value
- weight = value.item() if is_q else delta
+ weight = value.item()

the weight of the policy gradient is not detached
- weight = value.item() if is_q else delta
+ weight = value if is_q else delta

SARSA is turned into Q-learning
- agent.critic(step.next_obs)[:, step.next_action if is_q else 0].item()
+ agent.critic(step.next_obs).max().item()

the target has the value of A instead of A'
- step.next_action if is_q
+ step.action if is_q

A' is the greedy action
- next_action = agent.act(next_obs).item()
+ next_action = agent.act(next_obs, greedy=True).item()

the action that is played is not the A' that was learned from
- obs, action = next_obs, next_action
+ obs, action = next_obs, None

the first action of an episode is the A' of the last one
- tensor(obs)[None], None, 1.0
+ tensor(obs)[None], next_action if run.episodes else None, 1.0

gamma^t is not reset at a new episode
- tensor(obs)[None], None, 1.0
+ tensor(obs)[None], None, gamma_t if run.episodes else 1.0

gamma^t begins with gamma
- tensor(obs)[None], None, 1.0
+ tensor(obs)[None], None, args.gamma if args.discount_policy_gradient else 1.0

gamma^t is not applied
- value - gamma_t * weight * log_prob
+ value - weight * log_prob

gamma^t is applied to the critic, too
- loss = -delta * value
+ loss = -gamma_t * delta * value

gamma^t is always applied
- if args.discount_policy_gradient:
+ if True:

the actor has the critic's learning rate
- "lr": args.actor_lr
+ "lr": args.critic_lr

the critic has the actor's learning rate
- "lr": args.critic_lr
+ "lr": args.actor_lr

gradients add up
-             parameter.grad = None
+             parameter.grad = parameter.grad

SGD and Adam are swapped
- if args.optimizer == "sgd" else
+ if args.optimizer != "sgd" else

the sampler's Gumbel noise has the wrong sign
- (logits - torch.empty_like
+ (logits + torch.empty_like

greedy actions are sampled
- logits.argmax(-1) if greedy else sample(logits)
+ sample(logits)

the softmax is over the batch
- agent.actor(obs).log_softmax(-1)
+ agent.actor(obs).log_softmax(0)

the next observation is that of the reset
-             next_obs = tensor(next_obs)[None]
+             next_obs = tensor(env.reset()[0] if done else next_obs)[None]

truncated episodes go on
- done = terminated or truncated
+ done = terminated

the value loss is an absolute error
- "value_loss": delta.pow(2).mean()
+ "value_loss": delta.abs().mean()

the logged policy loss leaves out gamma^t
- -(gamma_t * weight * log_prob).mean()
+ -(weight * log_prob).mean()

statistics include the steps before the last report
- window.clear()
+ window

returns add up over the episodes
- self.episode_return[i] = self.episode_length[i] = 0
+ self.episode_length[i] = 0
"""
REINFORCE = """
the environment gets another sample than the one that is stored
- to_env(actions, envs.single_action_space)
+ to_env(agent.act(torch.from_numpy(all_obs[-1])).numpy(), envs.single_action_space)

the moving average starts at 1
- torch.zeros(()))
+ torch.ones(()))

the last step but one has no successor
- reversed(range(len(rewards) - 1))
+ reversed(range(len(rewards) - 2))

returns are not discounted
- gamma * returns[t + 1]
+ returns[t + 1]

returns have two rewards only
- gamma * returns[t + 1]
+ gamma * rewards[t + 1]

rewards are overwritten by the returns
- returns = 1.0 * rewards
+ returns = rewards

the policy gradient is the mean over steps
- .sum() / num_episodes
+ .mean()

the policy gradient has the wrong sign
- return -(advantages
+ return (advantages

the advantage is not detached
- -(advantages.detach() * log_probs)
+ -(advantages * log_probs)

the batch is made with gradients
- @torch.no_grad()
- def make_batch
+ @torch.enable_grad()
+ def make_batch

bootstrap at a terminal state
- args.gamma * ~episodes.terminated[last, n] * tail
+ args.gamma * tail

the bootstrap is not discounted
- args.gamma * ~episodes.terminated[last, n] * tail
+ ~episodes.terminated[last, n] * tail

no bootstrap at a time limit
- if args.baseline == "value" and args.bootstrap:
+ if False:

every baseline bootstraps
- if args.baseline == "value" and args.bootstrap:
+ if args.bootstrap:

the bootstrap cannot be disabled
- if args.baseline == "value" and args.bootstrap:
+ if args.baseline == "value":

the tail is added at the end of the longest episode
- rewards[last, n] +=
+ rewards[-1, n] +=

gamma^t is not applied
- if args.discount_policy_gradient:
+ if False:

gamma^t is always applied
- if args.discount_policy_gradient:
+ if True:

gamma^t begins with gamma
- (args.gamma**t)
+ (args.gamma ** (t + 1))

the baseline is fitted before it is used
-     policy_loss = reinforce_loss(log_probs, batch.advantages,
+     if args.baseline == "value":
+         loss = F.mse_loss(agent.value(batch.obs), batch.returns)
+         descend(agent.critic, optimizer, loss, args.max_grad_norm)
+         batch = batch._replace(advantages=batch.returns - agent.value(batch.obs).detach())
+     policy_loss = reinforce_loss(log_probs, batch.advantages,

the moving average includes the current episodes
-     advantages = returns - agent.baseline(obs, args.baseline)
+     agent.mean_return.lerp_(returns.mean(), 1 - args.mean_decay)
+     advantages = returns - agent.baseline(obs, args.baseline)

the moving average decays the wrong way
- lerp_(batch.returns.mean(), 1 - args.mean_decay)
+ lerp_(batch.returns.mean(), args.mean_decay)

the moving average is that of the advantages
- lerp_(batch.returns.mean(), 1 - args.mean_decay)
+ lerp_(batch.advantages.mean(), 1 - args.mean_decay)

the moving average is not saved
- "mean_return", torch.zeros(()))
+ "mean_return", torch.zeros(()), persistent=False)

there is no baseline
- advantages = returns - agent.baseline(obs, args.baseline)
+ advantages = returns

the entropy has the wrong sign
- - args.ent_coef * entropies.sum()
+ + args.ent_coef * entropies.sum()

the entropy is the mean over steps
- entropies.sum() / args.num_envs
+ entropies.mean()

the entropy is detached
- args.ent_coef * entropies.sum()
+ args.ent_coef * entropies.detach().sum()

max_grad_norm is ignored
- network.parameters(), max_grad_norm)
+ network.parameters(), np.inf)

gradients add up
-     optimizer.zero_grad()
+     optimizer

the steps of the value give the policy gradients of zero
-     optimizer.zero_grad()
+     optimizer.zero_grad(set_to_none=False)

the elite is the worst episodes
- totals >= np.sort(totals)[-num_elite]
+ totals <= np.sort(totals)[num_elite - 1]

the elite is chosen by discounted return
- episodes.rewards.sum(0, dtype=np.float64)  # float32
+ discounted_returns(episodes.rewards, args.gamma)[0]  # float32

the returns of the elite are rounded
- episodes.rewards.sum(0, dtype=np.float64)  # float32
+ episodes.rewards.sum(0)  # float32

the elite's number is rounded down
- max(1, round(args.elite_share * args.num_envs))
+ max(1, int(args.elite_share * args.num_envs))

the elite leaves out ties
- (totals >= np.sort(totals)[-num_elite])
+ (totals.argsort().argsort() >= len(totals) - num_elite)

the elite is weighted by its returns
- torch.from_numpy(elite).to(device)[episode]
+ torch.from_numpy(elite).to(device)[episode] * advantages

the value learns the advantages
- F.mse_loss(agent.value(batch.obs), batch.returns)
+ F.mse_loss(agent.value(batch.obs), batch.advantages)

the value takes one step
- for _ in range(args.critic_updates):
+ for _ in range(1):

the value is trained although another baseline is used
-     if args.baseline == "value":
+     if True:

the learning rates are swapped
- (args.actor_lr, args.critic_lr)
+ (args.critic_lr, args.actor_lr)

annealing cannot be disabled
- / args.total_timesteps if args.anneal_lr else 1
+ / args.total_timesteps

rewards after the end are counted
- np.where(live, rewards, 0)
+ np.where(True, rewards, 0)

truncated episodes go on
- live = live & ~(terminated | truncated)
+ live = live & ~terminated

an episode with both ends is bootstrapped
- rows.append((actions, rewards, terminated, live))
+ rows.append((actions, rewards, terminated & ~truncated, live))

truncations are stored as terminations
- rows.append((actions, rewards, terminated, live))
+ rows.append((actions, rewards, terminated | truncated, live))

the last observation is that before the last step
- episodes.obs[last + 1, n]
+ episodes.obs[last, n]

the last observation is that of a later episode
- episodes.obs[last + 1, n]
+ episodes.obs[-1, n]

the last step of each episode is masked
- rows.append((actions, rewards, terminated, live))
+ rows.append((actions, rewards, terminated, live & ~(terminated | truncated)))

the gradient's variance is divided by N instead of N - 1
- torch.stack(gradients).var(0)
+ torch.stack(gradients).var(0, correction=0)

the gradient's variance is that of one episode
- .sum().item() / num_episodes
+ .sum().item()

the explained variance is that after the update
-             metrics = diagnostics(agent, batch, args) if run.due else {}
-             losses = update(agent, optimizer, batch, args)
+             losses = update(agent, optimizer, batch, args)
+             metrics = diagnostics(agent, batch, args) if run.due else {}

the first reset is not seeded
- play(agent, envs, seed=run.reset_seed)
+ play(agent, envs)

each iteration has the same seed
- play(agent, envs, seed=run.reset_seed)
+ play(agent, envs, seed=args.seed)
"""
DDPG = """
the twin critics start equal
- self.critics = nn.ModuleList(critics)
+ self.critics = nn.ModuleList([critics[0], copy.deepcopy(critics[0])][: len(critics)])

Ornstein-Uhlenbeck noise is not added
- return (action + noise).clamp(-1, 1).numpy(), noise
+ return (action + noise * (args.noise != "ou")).clamp(-1, 1).numpy(), noise

only the new part of the noise is added
- return (action + noise).clamp(-1, 1).numpy(), noise
+ return (action + (noise if args.noise == "learned" else fresh)).clamp(-1, 1).numpy(), noise

half a batch is sampled
- buffer.sample(args.batch_size)
+ buffer.sample(max(1, args.batch_size // 2))

the critics always use relu
- mlp(sizes, args.activation)
+ mlp(sizes, "relu")

bootstrap at a terminal state
- gamma * (1 - terminated) * next_q
+ gamma * next_q

truncation is stored as termination
- buffer.add(obs, action, reward, next_obs, terminated)
+ buffer.add(obs, action, reward, next_obs, done)

the reset observation is stored as the successor
-             buffer.add(obs, action, reward, next_obs, terminated)
+             next_obs = env.reset()[0] if done else next_obs
+             buffer.add(obs, action, reward, next_obs, terminated)

the action without noise is stored
-             buffer.add(obs, action, reward,
+             action = agent.act(torch.as_tensor(obs, dtype=torch.float32), greedy=True).numpy()
+             buffer.add(obs, action, reward,

gradient through the target
- (y.detach() - q)
+ (y - q)

the target is computed with gradients
-     with torch.no_grad():
-         next_actions
+     with torch.enable_grad():
+         next_actions
= the target's weights have requires_grad False, and critic_loss() detaches y

the target has the learned critic
- target.q(batch.next_obs, next_actions)
+ agent.q(batch.next_obs, next_actions)

the target has the learned actor
- next_actions = target.policy_action(batch.next_obs)
+ next_actions = agent.policy_action(batch.next_obs)

the target has the larger of the two values
- target.q(batch.next_obs, next_actions).amin(0)
+ target.q(batch.next_obs, next_actions).amax(0)

the target has the first critic only
- target.q(batch.next_obs, next_actions).amin(0)
+ target.q(batch.next_obs, next_actions)[0]

noise_clip is ignored
- noise.clamp(-args.noise_clip, args.noise_clip)
+ noise

the smoothed action is not clipped
- next_actions = (next_actions + noise).clamp(-1, 1)
+ next_actions = next_actions + noise

the noise on target actions is uniform
- args.policy_noise * torch.randn_like(next_actions)
+ args.policy_noise * torch.rand_like(next_actions)

the actor descends Q
- loss = -agent.q1(
+ loss = agent.q1(

the actor ascends the smaller value
- agent.q1(batch.obs, agent.policy_action(batch.obs))
+ agent.q(batch.obs, agent.policy_action(batch.obs)).amin(0)

the actor ascends the target's critic
- agent.q1(batch.obs, agent.policy_action(batch.obs))
+ target.q1(batch.obs, agent.policy_action(batch.obs))

the actor's loss leaves out the learned sigma
- agent.q1(batch.obs, agent.policy_action(batch.obs))
+ agent.q1(batch.obs, agent.pi(batch.obs))

the actor's step leaves gradients in the critics
- loss.backward(inputs=list(agent.actor.parameters()))
+ loss.backward()

the actor moves at every step
- if step % args.policy_frequency == 0:
+ if True:

the targets move at every step
-         polyak_update(agent, target, args.tau)
-     return losses
+     polyak_update(agent, target, args.tau)
+     return losses

Polyak averaging the wrong way
- w_target.lerp_(w, tau)
+ w_target.lerp_(w, 1 - tau)

the learned networks follow the targets
- polyak_update(agent, target, args.tau)
+ polyak_update(target, agent, args.tau)

the actor has no moving target
- polyak_update(agent, target, args.tau)
+ polyak_update(agent.critics, target.critics, args.tau)

the targets are not copied at the start
- copy.deepcopy(agent).requires_grad_(False)
+ Agent(obs_size, act_size, args).to(device).requires_grad_(False)

the actor has the critic's learning rate
- Adam(actor, args.actor_lr
+ Adam(actor, args.critic_lr

the critic has the actor's learning rate
- Adam(critics, args.critic_lr
+ Adam(critics, args.actor_lr

only the first critic learns
- (y.detach() - q).pow(2).mean(-1).sum()
+ (y.detach() - q).pow(2).mean(-1)[0]

the critic's loss is the mean over the critics
- (y.detach() - q).pow(2).mean(-1).sum()
+ (y.detach() - q).pow(2).mean()

the noise is not reset at a new episode
- noise = torch.zeros(sizes[1], dtype=torch.float32)
+ noise = locals().get("noise", torch.zeros(sizes[1], dtype=torch.float32))

Ornstein-Uhlenbeck noise forgets too fast
- 0.85 * noise
+ 0.15 * noise

Gaussian noise is correlated in time
- if args.noise == "ou" else fresh
+ if args.noise == "ou" else 0.5 * noise + fresh

the noise is uniform
- args.exploration_noise * torch.randn_like(noise)
+ args.exploration_noise * (2 * torch.rand_like(noise) - 1)

all dimensions have the same noise
- args.exploration_noise * torch.randn_like(noise)
+ args.exploration_noise * torch.randn_like(noise[:1])

the explored action is not clipped
- (action + noise).clamp(-1, 1).numpy()
+ (action + noise).numpy()

actions are scaled by the upper bound only
- ((1 - share) * space.low + share * space.high)
+ (actions * space.high)

the bounds are those of the first dimension
- ((1 - share) * space.low + share * space.high)
+ ((1 - share) * space.low[0] + share * space.high[0])

the warm-up explores half of the range
- 2 * torch.rand(sizes[1], dtype=torch.float32).numpy() - 1
+ torch.rand(sizes[1], dtype=torch.float32).numpy()

the warm-up's sampler is not seeded
- 2 * torch.rand(sizes[1], dtype=torch.float32).numpy() - 1
+ gym.spaces.Box(-1, 1, (sizes[1],)).sample()

there is no warm-up
-             if has_learned:
+             if True:

a resumed run warms up again
- bool(learners["critic_optimizer"].state)
+ False

the actor's loss is missing in some reports
- losses |= update(
+ losses = update(

the warm-up never ends
-                 has_learned = True
+                 has_learned = False

learning starts one step late
- len(buffer) >= args.learning_starts
+ len(buffer) > args.learning_starts

a full buffer overwrites the newest transition
- field[self.num_added % self.capacity]
+ field[min(self.num_added, self.capacity - 1)]

rows that are not filled are sampled
- torch.randint(len(self),
+ torch.randint(self.capacity,

the newest transition is never sampled
- torch.randint(len(self),
+ torch.randint(max(1, len(self) - 1),

a restored buffer keeps the oldest transitions
- rows = rows[-self.capacity :]
+ rows = rows[: self.capacity]

save_buffer is ignored
- len(self) if self.is_saved else 0
+ 0

actions are clipped instead of squashed
- self.actor(obs).tanh()
+ self.actor(obs).clamp(-1, 1)

the last layers start large
- nn.init.uniform_(parameter, -3e-3, 3e-3)
+ nn.init.uniform_(parameter, -0.3, 0.3)

the learned sigma is detached
- self.actor.log_std.exp() * torch.randn_like(actions)
+ self.actor.log_std.exp().detach() * torch.randn_like(actions)

samples of a learned sigma are not clipped
- torch.randn_like(actions)).clamp(-1, 1)
+ torch.randn_like(actions))

greedy actions are sampled
- self.pi(obs) if greedy else self.policy_action(obs)
+ self.policy_action(obs)

the overestimation ignores the missing tail
- total, returns = tail.item() * (1 - episode.terminated[-1].item())
+ total, returns = 0.0

the overestimation bootstraps at a terminal state
- tail.item() * (1 - episode.terminated[-1].item())
+ tail.item()

the overestimation is that of the last batch
- buffer.latest(run.episodes[-1][2])
+ buffer.latest(args.batch_size)

truncated episodes go on
- done = terminated or truncated
+ done = terminated

each reset has the same seed
- self.reset_seed = None  # only the first reset is seeded
+ pass
"""

TABLES = {
    "a2c_discrete": (A2C, A2C_DISCRETE, CATEGORICAL, SAMPLER, EVERYWHERE),
    "a2c_continuous": (A2C, A2C_CONTINUOUS, EVERYWHERE),
    "reinforce_baseline": (REINFORCE, CATEGORICAL, SAMPLER, EVERYWHERE),
    "ac_td0": (AC_TD0, CATEGORICAL, EVERYWHERE, PLUMBING),
    "ddpg": (DDPG, EVERYWHERE),
}


class TableError(Exception):
    """The table does not fit the scripts, or the tests fail without a mutation."""


class Mutant(NamedTuple):
    script: str  # without .py
    name: str
    old: str
    new: str
    reason: str  # why it is equivalent; empty if it is not
    files: list[str]  # of tests, the likely killer first

    def source(self) -> str:
        """The script with the mistake."""
        source = (ROOT / f"{self.script}.py").read_text()
        if (count := source.count(self.old)) != 1:
            where = f"{self.script}.py, mutant {self.name!r}"
            raise TableError(f"{where}: the old text must occur once, but occurs {count} times")
        return source.replace(self.old, self.new)


def mutants_of(script: str) -> list[Mutant]:
    """Read the tables of a script."""
    mutants, files = [], [f"test_{script}.py", "test_contract.py"]
    for_all = ["test_plumbing.py", "test_contract.py", "test_cases.py", f"test_{script}.py"]
    for table in TABLES[script]:
        is_plumbing = table in (EVERYWHERE, PLUMBING)
        for block in table.strip().split("\n\n"):
            name, *lines = block.splitlines()
            texts = ["\n".join(line[2:] for line in lines if line[0] == mark) for mark in "-+="]
            mutants.append(Mutant(script, name, *texts, for_all if is_plumbing else files))
    return mutants


def run_pytest(folder: Path, flags: list[str]) -> None:
    """Run the tests of a copy of the repository; this ends the process."""
    os.setsid()
    os.chdir(folder)
    sys.path[0] = str(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (1, 2):
        os.dup2(os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.exit(int(importlib.import_module("pytest").main([*FLAGS, *flags])))


def run_tests(folder: Path, flags: list[str], limit: float) -> tuple[int | None, str]:
    """Return the exit status of pytest (None at the time limit) and its output."""
    process = get_context("fork").Process(target=run_pytest, args=(folder, flags))
    process.start()
    process.join(limit)
    status = process.exitcode
    for number in (signal.SIGINT, signal.SIGKILL):  # also ends what a failed test has left
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.join(30)
    return status, (folder / "output").read_text()


def copied(folder: str) -> Path:
    """Copy the repository into a folder."""
    for path in (path for pattern in COPIED for path in ROOT.glob(pattern)):
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, Path(folder, path.name))
    return Path(folder).resolve()


def tests_of(script: str, file: str) -> tuple[list[str], float]:
    """The names of the script's tests in a file, the quickest first, and the time they all take.

    They must pass without a mutation.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"tests/{file}", "-k", script, "--junitxml", "report.xml"]
        status, output = run_tests(copied(folder), flags, 3600)
        if status != 0:
            raise TableError(f"{output}\n{script}: the tests fail without a mutation")
        cases = ElementTree.parse(Path(folder) / "report.xml").iter("testcase")
        seconds = {f"tests/{file}::{case.get('name')}": float(case.get("time")) for case in cases}
    return sorted(seconds, key=seconds.get), sum(seconds.values())


def try_mutant(mutant: Mutant, known: tuple[list[str], float]) -> tuple[Mutant, str, float]:
    """Return the mutant, the test that killed it (empty if it survived), and the seconds taken."""
    (tests, duration), start = known, time.monotonic()
    limit = 60 + 3 * duration
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (copied(folder) / f"{mutant.script}.py").write_text(mutant.source())
        status, output = run_tests(Path(folder).resolve(), tests, limit)
    found = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - |$)", output, re.M)
    if status not in (0, None) and not found:
        raise TableError(f"{output}\n{mutant.script}, {mutant.name!r}: pytest did not run")
    killer = f"the time limit of {limit:.0f} s" if status is None else found[1] if found else ""
    return mutant, killer, time.monotonic() - start


def main() -> int:
    """Run the mutants of some scripts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="default: all five")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    parser.add_argument("--only", default="", metavar="TEXT", help="part of a mutant's name")
    args = parser.parse_args()
    scripts = [Path(name).stem for name in args.scripts] or list(TABLES)
    if unknown := [name for name in scripts if name not in TABLES]:
        parser.error(f"unknown scripts: {', '.join(unknown)}")
    mutants = [m for name in scripts for m in mutants_of(name) if args.only in m.name]
    for mutant in mutants:
        ast.parse(mutant.source())
    for name in SLOW_IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # pytest collects garbage twice; this skips what is imported here
    start, killed, survivors, known = time.monotonic(), Counter(), mutants, {}
    with ProcessPoolExecutor(args.jobs, get_context("fork")) as pool:
        for stage in range(4):  # each for those that survive the one before
            jobs = [mutant for mutant in survivors if len(mutant.files) > stage]
            survivors = [mutant for mutant in survivors if mutant not in jobs]
            for key in {(mutant.script, mutant.files[stage]): None for mutant in jobs}:
                known[key] = known.get(key) or pool.submit(tests_of, *key)
            tests = (known[mutant.script, mutant.files[stage]].result() for mutant in jobs)
            jobs = [pool.submit(try_mutant, *job) for job in zip(jobs, tests)]
            for mutant, killer, seconds in (job.result() for job in as_completed(jobs)):
                survivors += [] if killer else [mutant]
                killed[mutant.script] += bool(killer)
                verdict = f"killed by {killer}" if killer else f"SURVIVED {mutant.files[stage]}"
                print(f"{mutant.script}: {mutant.name}: {verdict}, {seconds:.1f} s", flush=True)
    for name in dict.fromkeys(mutant.script for mutant in mutants):
        count = sum(mutant.script == name for mutant in mutants)
        print(f"{name}: killed {killed[name]} of {count}")
    print(f"killed {killed.total()} of {len(mutants)} in {time.monotonic() - start:.0f} s")
    for mutant in survivors:
        print(f"SURVIVED: {mutant.script}: {mutant.name}: {mutant.reason or 'no reason given'}")
    for mutant in (wrong := [m for m in mutants if m.reason and m not in survivors]):
        print(f"said to be equivalent, but killed: {mutant.script}: {mutant.name}")
    return bool(wrong) or not all(mutant.reason for mutant in survivors)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TableError as error:
        sys.exit(str(error))
