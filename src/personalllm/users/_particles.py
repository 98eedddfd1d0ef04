"""Compiled sampler of a user's weights given comparisons; imported when first needed, numba being slow to import.

A particle is moved along pairs of its weights: given the sum of two of them and all others, the share of the first is
Beta distributed, cut to the interval that the comparisons leave. In the logit z of the share its density is log-concave
and smooth, however small the concentration, which is why nothing here is done in the share itself.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from personalllm.users._kernels import compiled, median_below

__all__ = ["filter_particles"]

_MAX_LOGIT = 690.0  # exp(-708) is the smallest normal float64; beyond it weights would lose precision
_MIN_WEIGHT = 1e-300
_NEGLIGIBLE = 1e-9  # two weights with a smaller sum change utilities by less than float32 resolves
_EXACT = 3.0  # up to this sum of concentrations, rejection accepts at least one draw in eight
_SHRINKS = 200
_TOLERANCE = 1e-6  # utilities are compared in float32, so a comparison may be off by its rounding
_ROUNDING = 1e-9
_N_NEAR = 40  # rows that moves respect; the others are checked after a sweep
_MIN_LEFT = 0.25  # share of particles; if fewer satisfy a comparison, it is imposed in stages
_STAGES = 200

_compiled = partial(compiled, error_model="numpy")


@_compiled
def _uniform(state):  # type: ignore[no-untyped-def]
    """Return a number in (0, 1) from a state of one word (splitmix64)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    x = state[0]
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (float(x >> np.uint64(12)) + 0.5) / 4503599627370496.0


@_compiled
def _log_choice(margin, temperature, flip):  # type: ignore[no-untyped-def]
    """Return the log probability that the rule has the chosen response win, which leads by `margin`."""
    if temperature > 0:
        wins = 0.5 + 0.5 * np.tanh(0.5 * margin / temperature)
    else:
        wins = 1.0 if margin > 0 else (0.5 if margin == 0 else 0.0)
    return np.log(max((1.0 - flip) * wins + flip * (1.0 - wins), 1e-300))


@_compiled
def _log_share(z, a, b):  # type: ignore[no-untyped-def]
    """Return the log density of the logit of a Beta(a, b) share, without its constant."""
    rest = np.log1p(np.exp(-abs(z)))
    return (-b * z if z > 0 else a * z) - (a + b) * rest


@_compiled
def _draw_share(state, low, high, a, b):  # type: ignore[no-untyped-def]
    """Return a logit from the density in [low, high] by rejection; NaN if the ends are too far out for it."""
    left, right = min(high, 0.0), max(low, 0.0)
    below = (np.exp(a * left) - np.exp(a * low)) / a if low < left else 0.0
    above = (np.exp(-b * right) - np.exp(-b * high)) / b if right < high else 0.0
    if not below + above > 0:
        return np.nan
    for _ in range(_SHRINKS):
        u = _uniform(state)
        if _uniform(state) * (below + above) < below:
            z = left + np.log(u + (1.0 - u) * np.exp(a * (low - left))) / a
        else:
            z = right - np.log(u + (1.0 - u) * np.exp(-b * (high - right))) / b
        # the envelope exp(a z) or exp(-b z) lies above the density by at most 2^(a + b)
        if np.log(_uniform(state)) < -(a + b) * np.log1p(np.exp(-abs(z))):
            return z
    return np.nan


@_compiled
def _interval(w, i, j, near, room):  # type: ignore[no-untyped-def]
    """Return the lowest and the highest logit that the share of weight i in w_i + w_j may have.

    `near` are rows, (n_near, n_weights), and `room` the amounts by which their margins may fall.
    """
    down, up = -w[i], w[j]
    for r in range(len(near)):
        slope = near[r, i] - near[r, j]
        if slope > 0:
            down = max(down, -room[r] / slope)
        elif slope < 0:
            up = min(up, -room[r] / slope)
    low, high = -_MAX_LOGIT, _MAX_LOGIT
    if w[i] + down > _MIN_WEIGHT:
        low = max(low, np.log((w[i] + down) / max(w[j] - down, _MIN_WEIGHT)))
    if w[j] - up > _MIN_WEIGHT:
        high = min(high, np.log(max(w[i] + up, _MIN_WEIGHT) / (w[j] - up)))
    return low, high


@_compiled
def _slice(state, ends, share, noisy, margin, slope, rule):  # type: ignore[no-untyped-def]
    """Return the next logit by slice sampling with shrinkage; `margin` and `slope` are of the noisy rows.

    `ends` are the lowest, the present and the highest logit, `share` the concentrations, the sum and the first weight.
    """
    low, z0, high = ends
    a, b, total, first = share
    temperature, flip = rule
    height = np.log(_uniform(state)) + _log_share(z0, a, b)
    for r in range(noisy):
        height += _log_choice(margin[r], temperature, flip)
    for _ in range(_SHRINKS):
        z = low + (high - low) * _uniform(state)
        value = _log_share(z, a, b)
        step = total / (1.0 + np.exp(-z)) - first
        for r in range(noisy):
            if value < height:
                break
            value += _log_choice(margin[r] + step * slope[r], temperature, flip)
        if value >= height:
            return z
        if z < z0:
            low = z
        else:
            high = z
    return z0


@_compiled
def _move(state, w, alpha, near, room, soft, margin, slope, rule):  # type: ignore[no-untyped-def]
    """Move one particle in place along random pairs of weights, each an exact or a slice step.

    Args:
        state: Of the random numbers.
        w: float64 (n_weights,).
        alpha: float64 (n_weights,).
        near: float64 (n_near, n_weights), rows that must keep their side.
        room: float64 (n_near,), by how much their margins may fall.
        soft: float64 (n_soft, n_weights), rows whose outcome is random.
        margin: float64 (n_soft,), their margins.
        slope: float64 (n_soft,), working space.
        rule: Temperature and flip of the rule.
    """
    n, n_soft = len(w), len(soft)
    for _ in range(n):
        i = int(_uniform(state) * n)
        j = int(_uniform(state) * (n - 1))
        j += j >= i
        total, a, b = w[i] + w[j], alpha[i], alpha[j]
        z0 = min(max(np.log(w[i] / w[j]), -_MAX_LOGIT), _MAX_LOGIT)
        low, high = _interval(w, i, j, near if total > _NEGLIGIBLE else near[:0], room)
        if not high > low:
            continue
        noisy = n_soft if total > _NEGLIGIBLE else 0
        z = _draw_share(state, low, high, a, b) if noisy == 0 and a + b <= _EXACT else np.nan
        if np.isnan(z):
            for r in range(noisy):
                slope[r] = soft[r, i] - soft[r, j]
            z = _slice(state, (min(low, z0), z0, max(high, z0)), (a, b, total, w[i]), noisy, margin, slope, rule)
        first = max(total / (1.0 + np.exp(-z)), _MIN_WEIGHT)
        step = first - w[i]
        w[i], w[j] = first, max(total / (1.0 + np.exp(z)), _MIN_WEIGHT)
        for r in range(len(near)):
            room[r] = max(0.0, room[r] + step * (near[r, i] - near[r, j]))
        for r in range(n_soft):
            margin[r] += step * (soft[r, i] - soft[r, j])


@_compiled
def _margins(w, columns, n_rows, out):  # type: ignore[no-untyped-def]
    """Write the margins of the first rows, which are the columns of `columns`: contiguous, so that it vectorises."""
    for r in range(n_rows):
        out[r] = 0.0
    for m in range(len(w)):
        weight = w[m]
        for r in range(n_rows):
            out[r] += weight * columns[m, r]


@_compiled
def _violation(w, columns, start, stop, sign):  # type: ignore[no-untyped-def]
    """Return by how much the worst of some rows is on the wrong side; 0 if none is."""
    worst = 0.0
    for r in range(start, stop):
        margin = 0.0
        for m in range(len(w)):
            margin += columns[m, r] * w[m]
        worst = max(worst, -sign * margin - _TOLERANCE)
    return worst


@_compiled
def _resample(state, w, share, labels):  # type: ignore[no-untyped-def]
    """Resample particles by their shares (systematic resampling)."""
    n, u, total = len(w), _uniform(state), 0.0
    for p in range(n):
        total += share[p]
    old, old_labels = np.empty(w.shape), np.empty(labels.shape, np.int8)
    source, reached = 0, share[0]
    for p in range(n):
        while reached < (p + u) * total / n and source < n - 1:
            source += 1
            reached += share[source]
        for m in range(w.shape[1]):
            old[p, m] = w[source, m]
        for t in range(labels.shape[1]):
            old_labels[p, t] = labels[source, t]
    for p in range(n):
        share[p] = 1.0
        for m in range(w.shape[1]):
            w[p, m] = old[p, m]
        for t in range(labels.shape[1]):
            labels[p, t] = old_labels[p, t]


@_compiled
def _signs(labels, first, done, sign):  # type: ignore[no-untyped-def]
    """Write the sign that the margin of each row must have for a particle."""
    for t in range(done):
        for r in range(first[t], first[t + 1]):
            sign[r] = labels[t]


@_compiled
def _nearest(w, labels, columns, first, done, order):  # type: ignore[no-untyped-def]
    """Write the rows that some particle is nearest to violating, at most `len(order)`; return their number."""
    n_rows = first[done]
    margin, sign, slack = np.empty(n_rows), np.empty(n_rows), np.empty(n_rows)
    for r in range(n_rows):
        slack[r] = np.inf
    for p in range(len(w)):
        _margins(w[p], columns, n_rows, margin)
        _signs(labels[p], first, done, sign)
        for r in range(n_rows):
            if sign[r] != 0:
                slack[r] = min(slack[r], sign[r] * margin[r])
    for r in range(n_rows):
        size = 1e-18
        for m in range(len(columns)):
            size += columns[m, r] ** 2
        slack[r] /= np.sqrt(size)
    for i in range(len(order)):
        best = -1
        for r in range(n_rows):
            if slack[r] < (slack[best] if best >= 0 else np.inf):
                best = r
        if best < 0:
            return i
        order[i], slack[best] = best, np.inf
    return len(order)


@_compiled
def _rejuvenate(state, cloud, alpha, columns, first, done, slack, soft, rule):  # type: ignore[no-untyped-def]
    """Resample particles by their shares and move each.

    The moves respect only the rows that are near to some particle. They are reversible, so a sweep of them is a
    proposal that is accepted if it violates no other row and rejected if it does. This is exact (all else cancels in
    the Metropolis-Hastings ratio) and ten times faster than moves that respect all rows.
    """
    w, share, labels = cloud
    temperature, flip, sweeps = rule
    _resample(state, w, share, labels)
    n_rows, n_weights, order = first[done], w.shape[1], np.empty(_N_NEAR, np.int64)
    n_near = _nearest(w, labels, columns, first, done, order)
    near, room = np.empty((n_near, n_weights)), np.empty(n_near)
    noisy, margin, slope = np.empty((len(soft), n_weights)), np.empty(len(soft)), np.empty(len(soft))
    for r in range(len(soft)):
        for m in range(n_weights):
            noisy[r, m] = columns[m, soft[r]]
    margins, sign, moved = np.empty(n_rows), np.zeros(n_rows), np.empty(n_weights)
    for p in range(len(w)):
        _signs(labels[p], first, done, sign)
        for r in range(n_near):
            for m in range(n_weights):
                near[r, m] = sign[order[r]] * columns[m, order[r]]
        for _ in range(sweeps):
            for m in range(n_weights):
                moved[m] = w[p, m]
            _margins(moved, columns, n_rows, margins)
            for r in range(n_near):
                room[r] = max(0.0, sign[order[r]] * margins[order[r]] + slack[order[r]])
            for r in range(len(soft)):
                margin[r] = margins[soft[r]]
            _move(state, moved, alpha, near, room, noisy, margin, slope, (temperature, flip))
            _margins(moved, columns, n_rows, margins)
            violated = 0
            for r in range(n_rows):
                violated += sign[r] * margins[r] < -slack[r] - _ROUNDING
            for m in range(n_weights if violated == 0 else 0):
                w[p, m] = moved[m]


@_compiled
def _hold_to(state, cloud, alpha, columns, first, t, slack, soft, rule):  # type: ignore[no-untyped-def]
    """Drop the particles that contradict interaction t, in stages if few would be left."""
    w, share, labels = cloud
    start, stop, wrong = first[t], first[t + 1], np.empty(len(w))
    # with noise either of the two named responses may be the worse one in truth: both orders are followed
    noiseless = rule[0] == 0 and rule[1] == 0
    for p in range(len(w)):
        labels[p, t] = -1 if not noiseless and _uniform(state) < 0.5 else 1
    for _ in range(_STAGES):
        left, total, worst = 0.0, 0.0, 0.0
        for p in range(len(w)):
            wrong[p] = _violation(w[p], columns, start, stop, labels[p, t]) if share[p] > 0 else np.inf
            left += share[p] if wrong[p] <= 0 else 0.0
            total += share[p]
            worst = max(worst, wrong[p] if share[p] > 0 else 0.0)
        if left >= _MIN_LEFT * total:
            break
        # allow the violation that half of them satisfy, move the particles, then allow less
        level = median_below(wrong, worst)
        for p in range(len(w)):
            share[p] = share[p] if wrong[p] <= level else 0.0
        for r in range(start, stop):
            slack[r] = level + _TOLERANCE
        _rejuvenate(state, cloud, alpha, columns, first, t + 1, slack, soft, rule)
    smallest = np.inf
    for p in range(len(w)):
        smallest = min(smallest, wrong[p])
    for r in range(start, stop):
        slack[r] = _TOLERANCE
    for p in range(len(w)):
        share[p] = share[p] if wrong[p] <= smallest else 0.0


@_compiled
def _weigh(w, share, columns, row, rule):  # type: ignore[no-untyped-def]
    """Weight particles by the probability of a comparison; return the effective sample size."""
    temperature, flip, _ = rule
    total, squares, largest = 0.0, 0.0, 0.0
    for p in range(len(w)):
        if temperature > 0 or flip > 0:
            margin = 0.0
            for m in range(w.shape[1]):
                margin += columns[m, row] * w[p, m]
            share[p] *= np.exp(_log_choice(margin, temperature, flip))
        largest = max(largest, share[p])
    for p in range(len(w)):
        share[p] /= largest
        total += share[p]
        squares += share[p] ** 2
    return total**2 / squares


@_compiled
def filter_particles(state, w, alpha, columns, first, rule, shown, means, particles, shares):  # type: ignore[no-untyped-def]
    """Update with a user's interactions one after another; write the posterior after each number of them in `shown`.

    Args:
        state: uint64 (1,), of the random numbers.
        w: float64 (n_particles, n_weights), drawn from the prior; moved in place.
        alpha: float64 (n_weights,), concentrations of the prior.
        columns: float64 (n_weights, n_rows), contiguous: scores of the better minus those of the worse response. The
            first row of an interaction is the comparison that was made, the others what it implies.
        first: int64 (n_interactions + 1,): the rows of interaction t are `first[t]:first[t + 1]`.
        rule: Temperature and flip of the rule, and the number of sweeps after resampling.
        shown: int64 (n_shown,), ascending.
        means: float64 (n_shown, n_weights), zeros; written.
        particles: float32 (n_shown, n_particles, n_weights), written.
        shares: float64 (n_shown, n_particles), written; rows of sum 1.
    """
    n, noiseless = len(w), rule[0] == 0 and rule[1] == 0
    share, slack = np.ones(n), np.full(columns.shape[1], _TOLERANCE)
    cloud = (w, share, np.zeros((n, len(first) - 1), np.int8))
    soft, n_soft, at = np.empty(len(first) - 1, np.int64), 0, 0
    for t in range(len(first)):
        total = 0.0
        for p in range(n):
            total += share[p]
        while at < len(shown) and shown[at] == t:
            for p in range(n):
                shares[at, p] = share[p] / total
                for m in range(w.shape[1]):
                    particles[at, p, m] = w[p, m]
                    means[at, m] += shares[at, p] * w[p, m]
            at += 1
        if at == len(shown):
            break
        hard = noiseless or first[t + 1] - first[t] > 1
        if hard:
            _hold_to(state, cloud, alpha, columns, first, t, slack, soft[:n_soft], rule)
        if not noiseless and (rule[0] > 0 or not hard):
            soft[n_soft] = first[t]
            n_soft += 1
        if _weigh(w, share, columns, first[t], rule) < 0.5 * n:
            _rejuvenate(state, cloud, alpha, columns, first, t + 1, slack, soft[:n_soft], rule)
