"""What a reader of the figure must know, in words: each a stable code with a Chinese and an English sentence."""

from collections.abc import Sequence
from typing import Any

from points.share.estimate.exchange import Caution

NAMES_SHOWN_MAX = 12

TEXTS: dict[str, tuple[str, str]] = {
    "unweighted": (
        "没有人口边际数据, 此结果未加权校准, 不得与目标线比较。",
        "There are no population margins: the figure is unweighted and is not set against the goal.",
    ),
    "response-rate-low": (
        "回收率为{rate:.0%}, 低于{least:.0%}: 未答者若与答者不同, 校准不能完全纠正。",
        "The response rate is {rate:.0%}, below {least:.0%}: where those who did not answer differ, weights cannot "
        "repair all of it.",
    ),
    "non-response-unknown": (
        "数据中没有未答者, 无法按单元作无应答调整。",
        "Nobody without an answer is in the data, so non-response is not adjusted for by cells.",
    ),
    "adjustment-unknown": (
        "未答者的{names}大多不详, 无应答调整未使用。",
        "{names}: not known of those who did not answer, so non-response is not adjusted for by it.",
    ),
    "cells-collapsed": (
        "{collapsed}个无应答调整单元的答者少于{least}人, 已合并。",
        "{collapsed} cells of the non-response adjustment had fewer than {least} respondents and were pooled.",
    ),
    "lone-cluster": (
        "{strata}个层只有一个或没有作答的群, 已与相邻层合并, 误差略偏大。",
        "{strata} strata had one cluster that responded, or none, and were joined to the next; the error is a little "
        "overstated.",
    ),
    "margin-category-missing": (
        "边际{variable}的类别{categories}在样本中无人, 已并入相邻类别: 这部分人口没有被代表。",
        "Margin {variable}: nobody of {categories} is in the sample; joined to the neighbouring category, so these "
        "persons are not represented.",
    ),
    "margin-category-small": (
        "边际{variable}的类别{categories}的答者少于{least}人, 已并入相邻类别。",
        "Margin {variable}: fewer than {least} respondents of {categories}; joined to the neighbouring category.",
    ),
    "attribute-unknown": (
        "{n}名答者中{persons}人的{variable}不详或不在边际中(其中{strange}人的类别不在边际中), 按原有权重占比保留。",
        "{persons} of {n} respondents have no known {variable}, {strange} of them a category that the margins lack; "
        "they keep the part of the weights that they had.",
    ),
    "not-converged": (
        "边际校准未在{limit}次迭代内收敛, 最大偏差{gap:.2%}: 权重不符合人口边际。",
        "Raking did not converge within {limit} iterations, the largest gap is {gap:.2%}: the weights do not meet the "
        "margins.",
    ),
    "bound-hit": (
        "{persons}人的校准系数达到界限{low:g}–{high:g}: 样本与人口差别较大。",
        "The raking factors of {persons} persons stand at a bound, {low:g} to {high:g}: the sample is far from the "
        "population.",
    ),
    "trimmed-high": (
        "截断的权重占总权重的{share:.1%}, 结果受截断影响(未截断时为{untrimmed:.1%})。",
        "Trimming took {share:.1%} of all weight and moves the figure, which is {untrimmed:.1%} without it.",
    ),
    "margins-missed": (
        "截断后加权人口与边际的最大偏差为{gap:.2%}。",
        "After trimming the weighted population misses its margins by up to {gap:.2%}.",
    ),
    "design-effect-high": (
        "设计效应为{effect:.1f}, 有效样本仅{n_effective:.0f}人。",
        "The design effect is {effect:.1f}: the sample is worth {n_effective:.0f} persons.",
    ),
    "few-respondents": (
        "仅{n}名答者、{clusters}个群, 区间可能过窄。",
        "Only {n} respondents in {clusters} clusters: the interval may be too short.",
    ),
    "replicates-disagree": (
        "重复权重的标准误({replicate:.4f})与线性化标准误({linear:.4f})相差较大。",
        "The replicates' standard error, {replicate:.4f}, and the linearised one, {linear:.4f}, differ much.",
    ),
    "replicates-dropped": (
        "{dropped}个重复样本无法校准, 未使用。",
        "{dropped} replicates could not be raked and were left out.",
    ),
    "selection-on-outcome": (
        "严格口径的结果{share:.1%}与独立参照值{reference:.1%}之差超出随机误差: 样本可能按出行方式本身被选择, "
        "加权不能纠正。",
        "The strict share, {share:.1%}, differs from the unselected reference, {reference:.1%}, by more than chance: "
        "people may have been selected by how they travel, which no weighting repairs.",
    ),
    "waves-disagree": (
        "各次调查之间的差别超出随机误差(p={p:.3f}, {reading}), 合并区间已放宽{factor:.1f}倍。",
        "The waves differ by more than chance (p = {p:.3f}, {reading}); the combined interval is widened "
        "{factor:.1f} times.",
    ),
    "streets-too-few": (
        "有数据的街道不足{least}个, 不作小区域模型估计。",
        "Fewer than {least} streets have data, so no small-area model is made.",
    ),
}


class Cautions:
    """Cautions as they come up, each once for a wave."""

    def __init__(self) -> None:
        self._found: list[Caution] = []

    def add(self, code: str, wave: str = "", **values: Any) -> None:
        """Note one; `values` fill its sentences."""
        shown = {name: _shown(value) for name, value in values.items()}
        text_zh, text_en = TEXTS[code]
        caution = Caution(code=code, wave=wave, text_zh=text_zh.format(**shown), text_en=text_en.format(**shown))
        if caution not in self._found:
            self._found.append(caution)

    def all(self) -> list[Caution]:
        """In the order in which they came up, those of the whole first."""
        return sorted(self._found, key=lambda caution: caution.wave != "")


def _shown(value: Any) -> Any:
    """Lists as words, cut to a length that people read."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        more = "…" if len(value) > NAMES_SHOWN_MAX else ""
        return "、".join(str(each)[:40] for each in value[:NAMES_SHOWN_MAX]) + more
    return value
