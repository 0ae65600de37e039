"""What the estimator is given and what it answers: plain values, so that another process can compute and repeat it.

Nothing but these values enters an estimate. Persons carry no identity: a key is random and of one wave only. Both ends
write JSON; the SHA-256 of the input's bytes is what a release keeps as the hash of its inputs.
"""

import msgspec

# Two ways of reading the official definition, which names e-bikes neither way; both are always computed.
STRICT = "strict"
WITH_E_BIKE = "with-e-bike"
READINGS = (STRICT, WITH_E_BIKE)


class WaveInput(msgspec.Struct, frozen=True, kw_only=True):
    """One wave, a column for each fact, a position for each sampled person of the definition's ages.

    `kind` is `household-survey` or `diary`. `responded` is False for those drawn and never reached, whose trips are 0
    and do not count; they serve the non-response adjustment alone. `attributes` are the categories that margins and
    adjustment cells name (street, age_band, sex, household_cars …), '' where unknown. `trips_by_mode` counts trips by
    main mode; `green` counts by reading. `base_weight` is the inverse of the probability of being drawn.
    """

    id: str
    kind: str
    name: str
    first_on: str
    last_on: str
    stratum: list[str]
    cluster: list[str]
    street: list[str]
    base_weight: list[float]
    responded: list[bool]
    attributes: dict[str, list[str]]
    trips: list[int]
    green: dict[str, list[int]]
    trips_by_mode: dict[str, list[int]]


class Margin(msgspec.Struct, frozen=True, kw_only=True):
    """Persons of the population by category of one variable, or of several crossed ("age_band*sex", "6-17*male")."""

    variable: str
    persons: dict[str, float]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to compute. All are data of a release: the same options and input give the same result.

    `margins` may be empty: then nothing is raked and the result says `weighted = False`. `adjustment_cells` are the
    attributes whose crossing makes the cells of the non-response adjustment, known of everybody drawn. `bounds` limit
    each weight's raking factor relative to its adjusted base weight. `trim_ratio` cuts weights above this many medians.
    """

    margins: list[Margin]
    adjustment_cells: list[str]
    bounds: tuple[float, float] = (0.2, 5.0)
    tolerance: float = 1e-8
    iterations_max: int = 200
    trim_ratio: float | None = 5.0
    replicates: int = 200
    confidence: float = 0.95
    seed: int = 0
    street_persons_min: int = 100  # respondents below which a street's own estimate is not shown, and a model's is
    reference_green: float | None = None  # an unselected reference's share of the strict reading, for the warning


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that enters one estimate."""

    format: int = 1
    definition_id: str
    population: str  # which population the margins stand on, with source and date; '' without margins
    waves: list[WaveInput]
    options: Options


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """One share with its precision. Shares and standard errors are of all trips, 0..1.

    `se` accounts for the raking (residual linearisation); `se_replicate` re-rakes every replicate; `se_unraked` is the
    plain linearised error that ignores the raking, kept for comparison. `n` are persons who responded, `trips` theirs;
    `n_effective` = n ÷ design_effect.
    """

    share: float
    se: float
    low: float
    high: float
    n: int
    trips: int
    n_effective: float
    design_effect: float
    se_replicate: float | None = None
    se_unraked: float | None = None


class StreetEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """One street's share. `modelled`: borrowed from the other streets, never a measurement of this one alone."""

    street: str
    n: int
    modelled: bool
    share: float
    se: float
    low: float
    high: float
    direct_share: float | None = None
    direct_se: float | None = None


class ReadingResult(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of the definition.

    `naive` is the plain share of the respondents' trips; `untrimmed` the estimate before trimming, so that its effect
    is seen.
    """

    reading: str
    naive: float
    estimate: Estimate
    untrimmed: Estimate | None
    streets: list[StreetEstimate]


class Weighting(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to one wave's weights.

    `margin_gap_max` is the largest relative difference of a weighted margin from its target, after trimming.
    """

    drawn: int
    responded: int
    response_rate: float
    adjustment_cells: int
    cells_collapsed: int
    raked: bool
    converged: bool
    iterations: int
    factor_min: float
    factor_max: float
    at_bound: int
    trimmed: int
    trimmed_weight_share: float
    margin_gap_max: float
    weight_sum: float


class WaveResult(msgspec.Struct, frozen=True, kw_only=True):
    """One wave's own estimate; `combining_weight` is its part in the whole, by reading."""

    id: str
    kind: str
    weighting: Weighting
    readings: list[ReadingResult]
    mode_shares: dict[str, float]
    combining_weight: dict[str, float]


class Caution(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a reader of the figure must know. `code` is stable; `wave` is '' when it is of the whole."""

    code: str
    wave: str
    text_zh: str
    text_en: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: the whole, and each wave beside it."""

    format: int = 1
    definition_id: str
    weighted: bool
    combined: list[ReadingResult]
    waves: list[WaveResult]
    cautions: list[Caution]
    libraries: dict[str, str]  # versions that computed it
