"""Functions for learning about descent, each declared once: its minima, and what to try on it and to see.

The module is long because it is one list of declarations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

from service.engine.declarations import Declaration, Registry
from service.engine.functions.calculus import DEGENERATE, MAXIMUM, SADDLE
from service.engine.functions.expression import parse

Point = tuple[float, ...]

LIBRARY = (
    "Surjanovic, Bingham: Virtual Library of Simulation Experiments, https://www.sfu.ca/~ssurjano/optimization.html"
)
SURVEY = "Jamil, Yang 2013, arXiv:1308.4008"
SADDLES = "Dauphin et al. 2014, arXiv:1406.2572"


class Minimum(NamedTuple):
    """A local minimum of a preset inside its box."""

    point: Point
    value: float


class Stationary(NamedTuple):
    """A point of a preset, other than a minimum, where the gradient is 0: a maximum, a saddle, or degenerate."""

    point: Point
    kind: str


class Trial(NamedTuple):
    """A descent worth trying on a preset: an optimizer with options, run from each of the starts."""

    optimizer: str
    steps: int
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Preset(Declaration):
    """The declaration of a function for learning about descent. `description` is its title; `build` parses it."""

    expression: str
    variables: tuple[str, ...]
    domain: tuple[tuple[float, float], ...]
    """The box worth drawing: lowest and highest value of each variable."""
    minima: tuple[Minimum, ...] = ()
    """All minima inside the box, the lowest first. The border is no lower, except where there are none."""
    stationary: tuple[Stationary, ...] = ()
    """Other points worth a look."""
    teaches: Mapping[str, str] = field(default_factory=dict)
    """The lesson of the preset, per language (`en`, `zh`)."""
    starts: tuple[Point, ...] = ()
    trials: tuple[Trial, ...] = ()


presets: Registry[Preset] = Registry("preset", "presets", Preset, within="functions")


def _preset(
    name: str, expression: str, domain: tuple[tuple[float, float], ...], lesson_en: str, lesson_zh: str, **details: Any
) -> None:
    """Declare a preset. Its variables are the first of x, y, z and w, as many as `domain` has intervals."""
    variables = ("x", "y", "z", "w")[: len(domain)]
    presets.declare(
        name,
        expression=expression,
        variables=variables,
        domain=domain,
        teaches=MappingProxyType({"en": lesson_en, "zh": lesson_zh}),
        **details,
    )(partial(parse, expression, variables))


def _square(low: float, high: float) -> tuple[tuple[float, float], ...]:
    return ((low, high),) * 2


def _trial(optimizer: str, steps: int, **options: Any) -> Trial:
    return Trial(optimizer, steps, MappingProxyType(options))


def _mirrored(point: Point, value: float, center: float = 0.0) -> list[Minimum]:
    """Return a minimum with its mirror images on all axes through the center."""
    sides = [sorted({offset, -offset}) for offset in point]
    return [Minimum(tuple(center + offset for offset in offsets), value) for offsets in product(*sides)]


def _swapped(minima: Sequence[Minimum]) -> list[Minimum]:
    """Return each minimum together with its image, in which x and y are exchanged."""
    return [*minima, *(Minimum(minimum.point[::-1], minimum.value) for minimum in minima)]


# --- one variable -------------------------------------------------------------------------------

_preset(
    "parabola",
    "x^2",
    ((-2.0, 2.0),),
    lesson_en="One step multiplies x by 1 - 2·rate. A learning rate of 0.1 glides down, 0.5 arrives at once, 0.9 "
    "jumps from side to side and still arrives, 1 jumps for ever, and 1.1 diverges.",
    lesson_zh="每一步把 x 乘以 1 - 2·学习率:学习率 0.1 平稳下降,0.5 一步到位,0.9 左右跳动但仍收敛,1 永远来回跳,1.1 则"
    "发散。",
    en="Parabola",
    zh="抛物线",
    minima=(Minimum((0.0,), 0.0),),
    starts=((1.0,),),
    trials=tuple(_trial("sgd", 100, learning_rate=rate) for rate in (0.1, 0.5, 0.9, 1.0, 1.1)),
)
_preset(
    "shifted_parabola",
    "(x - 2)^2 - 2",
    ((-8.0, 12.0),),
    lesson_en="The gradient 2(x - 2) vanishes at 2, where the value is not 0. With learning rate 0.98 each step turns "
    "the distance to 2 into -0.96 of it: long jumps from side to side that shorten slowly.",
    lesson_zh="梯度 2(x - 2) 在 2 处为零,而那里的函数值并不是 0。学习率为 0.98 时,每一步使到 2 的距离变为原来的 -0.96 "
    "倍:大幅左右跳动,缩短得很慢。",
    en="Shifted parabola",
    zh="平移的抛物线",
    minima=(Minimum((2.0,), -2.0),),
    starts=((-7.0,),),
    trials=(_trial("sgd", 300, learning_rate=0.98), _trial("sgd", 40, learning_rate=0.1)),
)
_preset(
    "double_well",
    "x^4 - 3x^2 + x",
    ((-2.2, 2.2),),
    lesson_en="The start decides which valley is reached: 0.1 and 0.2 lie on the two sides of the barrier at 0.17. "
    "From 2, plain descent stays in the shallow valley, while momentum rolls through it into the deep one.",
    lesson_zh="落入哪个谷取决于起点:0.1 与 0.2 分处 0.17 处山脊的两侧。从 2 出发,普通梯度下降停在浅谷,动量法则冲过浅谷"
    "进入深谷。",
    en="Double well",
    zh="双势阱",
    minima=(Minimum((-1.3008395659415772,), -3.513905038934789), Minimum((1.1309011226299859,), -1.0702301817761541)),
    stationary=(Stationary((0.16993844331159128,), MAXIMUM),),
    starts=((2.0,), (0.1,), (0.2,)),
    trials=(_trial("sgd", 400, learning_rate=0.01), _trial("momentum", 400, learning_rate=0.01)),
)
_preset(
    "x_squared_sine",
    "x^2*sin(x)",
    ((-6.0, 7.0),),
    lesson_en="From 2.5, right of the hilltop at 2.29, descent reaches 5.09. From 2 it heads for 0, where the slope "
    "vanishes although the function falls on beyond: near such a point steps shrink to nothing.",
    lesson_zh="2.29 处是山顶。从其右侧的 2.5 出发,下降到 5.09;从 2 出发则走向 0:那里斜率为零,函数越过它却仍在下降——靠"
    "近这种点时步子会缩到几乎为零。",
    en="Growing waves",
    zh="越来越高的波浪",
    minima=(Minimum((5.08698509410227,), -24.08296022306833), Minimum((-2.2889297281034042,), -3.945301625284326)),
    stationary=(Stationary((0.0,), DEGENERATE), Stationary((2.2889297281034042,), MAXIMUM)),
    starts=((2.5,), (2.0,)),
    trials=(_trial("sgd", 100, learning_rate=0.005),),
)
_preset(
    "cubic",
    "x^3",
    ((-1.5, 1.5),),
    lesson_en="At 0 the gradient is 0 and so is the second derivative, yet it is no minimum. From 1 descent creeps "
    "to it ever more slowly; from -0.1, just beyond it, descent runs away.",
    lesson_zh="在 0 处梯度与二阶导数都为零,但它不是极小点。从 1 出发,下降越来越慢地爬向它;从它另一侧的 -0.1 出发,则一"
    "去不返。",
    en="Inflection point",
    zh="拐点",
    stationary=(Stationary((0.0,), DEGENERATE),),
    starts=((1.0,), (-0.1,)),
    trials=(_trial("sgd", 36, learning_rate=0.1),),
)
_preset(
    "log_barrier",
    "x - log(x)",
    ((0.01, 5.0),),
    lesson_en="The logarithm puts up a wall: left of 0 there is no value. From 3, learning rate 0.5 settles at 1, "
    "while rate 5 and Newton's method leap over the wall; from 0.5, Newton's method doubles its correct digits "
    "each step.",
    lesson_zh="对数筑起一道墙:0 的左侧没有函数值。从 3 出发,学习率 0.5 稳稳到达 1,学习率 5 与牛顿法却一步越墙;从 0.5 "
    "出发,牛顿法每步使正确位数翻倍。",
    en="Logarithmic barrier",
    zh="对数障碍",
    minima=(Minimum((1.0,), 1.0),),
    starts=((3.0,), (0.5,)),
    trials=(_trial("sgd", 60, learning_rate=0.5), _trial("sgd", 60, learning_rate=5.0), _trial("newton", 10)),
    sources=("Boyd, Vandenberghe: Convex Optimization, chapter 11",),
)
_preset(
    "cliff",
    "exp(4x) - 4x",
    ((-10.0, 1.5),),
    lesson_en="At a cliff the gradient explodes: the first step of plain descent from 1.2 lands beyond -8, and on the "
    "gentle slope there the way back takes a hundred steps. Adam and Rprop walk down; so does a clipped gradient.",
    lesson_zh="悬崖处梯度爆炸:普通梯度下降从 1.2 出发,第一步就被甩到 -8 以外,再沿那里的缓坡走回来要上百步。Adam 与 "
    "Rprop 则一步步走下来;裁剪梯度也可以。",
    en="Cliff",
    zh="悬崖",
    minima=(Minimum((0.0,), 1.0),),
    starts=((1.2,),),
    trials=(
        _trial("sgd", 200, learning_rate=0.02),
        _trial("adam", 100, learning_rate=0.1),
        _trial("rprop", 50, learning_rate=0.1),
    ),
    sources=("Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063",),
)

# --- bowls, valleys and saddles -----------------------------------------------------------------

_preset(
    "bowl",
    "x^2 + y^2",
    _square(-3.0, 3.0),
    lesson_en="The gradient points straight away from the minimum and is twice as long as the distance to it. So "
    "descent goes straight down, and an exact line search arrives in one step.",
    lesson_zh="梯度正好背离极小点,长度是到极小点距离的两倍。因此下降沿直线直达,精确线搜索一步到位。",
    aliases=("sphere",),
    en="Round bowl",
    zh="圆碗",
    minima=(Minimum((0.0, 0.0), 0.0),),
    starts=((-2.5, 2.0),),
    trials=(_trial("sgd", 50, learning_rate=0.1), _trial("exact_line_search", 1)),
)
_preset(
    "ravine",
    "x^2/2 + 50y^2",
    ((-12.0, 12.0), (-2.0, 2.0)),
    lesson_en="The curvatures are 1 and 100, so learning rates must stay below 2/100: 0.019 zigzags across the ravine "
    "and creeps along it. Momentum gets along faster, and Newton's method needs one step.",
    lesson_zh="两个方向的曲率为 1 与 100,学习率必须小于 2/100:0.019 时在峡谷两壁间之字形跳动,沿谷底却走得很慢。动量法"
    "沿谷底更快,牛顿法只需一步。",
    en="Ravine",
    zh="狭长的峡谷",
    minima=(Minimum((0.0, 0.0), 0.0),),
    starts=((-10.0, 1.0),),
    trials=(_trial("sgd", 200, learning_rate=0.019), _trial("momentum", 200, learning_rate=0.01), _trial("newton", 1)),
    sources=("Goh 2017, https://distill.pub/2017/momentum/",),
)
_preset(
    "saddle",
    "x^2 - y^2",
    _square(-2.0, 2.0),
    lesson_en="At 0 the gradient vanishes, but the Hessian has the eigenvalues 2 and -2. From y = 0 descent ends "
    "there; from y = 0.001 it turns away. Newton's method jumps onto it unless it uses absolute eigenvalues.",
    lesson_zh="在 0 处梯度为零,但黑塞矩阵的特征值为 2 与 -2。从 y = 0 出发的下降停在那里,从 y = 0.001 出发则会离开。牛"
    "顿法一步跳到鞍点上,除非使用特征值的绝对值。",
    en="Saddle",
    zh="马鞍面",
    stationary=(Stationary((0.0, 0.0), SADDLE),),
    starts=((1.5, 0.0), (1.5, 0.001)),
    trials=(_trial("sgd", 40, learning_rate=0.1), _trial("newton", 1), _trial("newton", 10, absolute_eigenvalues=True)),
    sources=(SADDLES,),
)
_preset(
    "stuck_saddle",
    "x^2/2 + y^4/4 - y^2/2",
    ((-1.5, 1.5), (-1.8, 1.8)),
    lesson_en="From exactly y = 0 descent ends in the saddle point at 0; from y = 0.000001 it leaves again for the "
    "minimum of that side. Watch the loss: a long plateau that looks like the end, then a second fall.",
    lesson_zh="从 y 恰为 0 处出发,下降停在 0 处的鞍点;从 y = 0.000001 出发,则会再次离开,落到那一侧的极小点。注意损失曲"
    "线:先是一段看似结束的长平台,然后第二次下降。",
    en="Saddle between two minima",
    zh="两个极小点之间的鞍点",
    minima=(Minimum((0.0, 1.0), -0.25), Minimum((0.0, -1.0), -0.25)),
    stationary=(Stationary((0.0, 0.0), SADDLE),),
    starts=((1.0, 0.0), (1.0, 1e-6), (1.0, -1e-3)),
    trials=(_trial("sgd", 400, learning_rate=0.1),),
    sources=(SADDLES,),
)
_preset(
    "monkey_saddle",
    "x^3 - 3x*y^2",
    _square(-1.5, 1.5),
    lesson_en="Three valleys and three ridges meet at 0, where the gradient and the whole Hessian are 0: second "
    "derivatives do not tell what it is. Along y = 0 descent creeps towards it; from y = 0.01 it turns off.",
    lesson_zh="三条谷与三条脊在 0 处相会,那里梯度与整个黑塞矩阵都为零:二阶导数无法判断它是什么点。沿 y = 0 的下降慢慢"
    "爬向它,从 y = 0.01 出发则会拐进一条谷。",
    en="Monkey saddle",
    zh="猴鞍面",
    stationary=(Stationary((0.0, 0.0), DEGENERATE),),
    starts=((1.0, 0.0), (1.0, 0.01)),
    trials=(_trial("sgd", 45, learning_rate=0.05),),
    sources=("https://mathworld.wolfram.com/MonkeySaddle.html",),
)
_preset(
    "quartic_bowl",
    "x^4 + y^4",
    _square(-1.5, 1.5),
    lesson_en="At the minimum the Hessian is 0. Plain descent slows down all the way: four times the steps halve the "
    "distance. Newton's method loses its speed too: every step keeps two thirds of the distance.",
    lesson_zh="极小点处黑塞矩阵为零。普通梯度下降一路变慢:步数增至四倍,距离才减半。牛顿法也失去了速度:每步仍剩下三分之"
    "二的距离。",
    en="Flat-bottomed bowl",
    zh="平底碗",
    minima=(Minimum((0.0, 0.0), 0.0),),
    starts=((1.0, 0.5),),
    trials=(_trial("sgd", 200, learning_rate=0.1), _trial("newton", 20)),
)
_preset(
    "absolute_value",
    "|x| + |y|",
    _square(-2.0, 2.0),
    lesson_en="However near the kink, each slope is 1 or -1. So plain descent with learning rate 0.1 ends up hopping "
    "to and fro around the minimum, and 0.01 only hops less far: the rate has to shrink on the way.",
    lesson_zh="离折痕再近,每个斜率也是 1 或 -1。因此学习率为 0.1 的梯度下降最终在极小点附近来回跳,0.01 只是跳得近些:学"
    "习率必须逐渐减小。",
    aliases=("l1_norm",),
    en="Absolute value",
    zh="绝对值",
    minima=(Minimum((0.0, 0.0), 0.0),),
    starts=((1.53, -0.78),),
    trials=(_trial("sgd", 200, learning_rate=0.1), _trial("sgd", 200, learning_rate=0.01)),
)
_preset(
    "booth",
    "(x + 2y - 7)^2 + (2x + y - 5)^2",
    _square(-10.0, 10.0),
    lesson_en="A slanted bowl: the gradient does not point at the minimum. Its curvatures are 2 and 18, so learning "
    "rate 0.1 swings in and 0.12, above 2/18, swings out; Newton's method needs one step.",
    lesson_zh="倾斜的碗:梯度并不指向极小点。曲率为 2 与 18,因此学习率 0.1 摆动着收敛,0.12(大于 2/18)则越摆越远;牛顿法"
    "只需一步。",
    en="Booth's function",
    zh="Booth 函数",
    minima=(Minimum((1.0, 3.0), 0.0),),
    starts=((-8.0, 8.0),),
    trials=(_trial("sgd", 50, learning_rate=0.1), _trial("sgd", 20, learning_rate=0.12), _trial("newton", 1)),
    sources=(LIBRARY,),
)
_preset(
    "matyas",
    "0.26*(x^2 + y^2) - 0.48x*y",
    _square(-10.0, 10.0),
    lesson_en="A valley along x = y, with curvature 1 across and only 0.04 along it. Learning rate 1 reaches its "
    "floor in one step and then takes hundreds along it; momentum shortens that.",
    lesson_zh="沿 x = y 的山谷:横向曲率为 1,纵向只有 0.04。学习率 1 一步就到谷底,之后沿谷底却要走几百步;动量法能缩短这"
    "段路。",
    en="Matyas' function",
    zh="Matyas 函数",
    minima=(Minimum((0.0, 0.0), 0.0),),
    starts=((9.0, 5.0),),
    trials=(_trial("sgd", 300, learning_rate=1.0), _trial("momentum", 300, learning_rate=0.5)),
    sources=(LIBRARY,),
)
_preset(
    "rosenbrock",
    "(1 - x)^2 + 100*(y - x^2)^2",
    ((-2.0, 2.0), (-1.0, 3.0)),
    lesson_en="A bent valley with steep walls and an almost level floor: descent drops into it in a few steps and "
    "then creeps. Compare plain descent with momentum and Adam, and with Newton's method, which takes a handful "
    "of steps.",
    lesson_zh="弯曲的山谷,谷壁陡峭而谷底几乎水平:下降几步就落入谷中,然后缓慢爬行。比较普通梯度下降、动量法与 Adam,以及"
    "只需几步的牛顿法。",
    aliases=("banana",),
    en="Rosenbrock's valley",
    zh="罗森布罗克山谷(香蕉函数)",
    minima=(Minimum((1.0, 1.0), 0.0),),
    starts=((-1.2, 1.0),),
    trials=(
        _trial("sgd", 2000, learning_rate=0.001),
        _trial("momentum", 2000, learning_rate=0.001),
        _trial("adam", 2000, learning_rate=0.02),
        _trial("newton", 10),
    ),
    sources=("Rosenbrock 1960, The Computer Journal 3, 175-184",),
)
_preset(
    "beale",
    "(1.5 - x + x*y)^2 + (2.25 - x + x*y^2)^2 + (2.625 - x + x*y^3)^2",
    _square(-4.5, 4.5),
    lesson_en="Adam from (1, 1) finds the minimum; from (-1, 1) it strays down another valley, which leads out of the "
    "box and has no lowest point. Newton's method goes from both to the saddle point (0, 1).",
    lesson_zh="Adam 从 (1, 1) 出发找到极小点;从 (-1, 1) 出发则误入另一条山谷,它通向框外,没有最低点。牛顿法从这两点都走"
    "到鞍点 (0, 1)。",
    en="Beale's function",
    zh="Beale 函数",
    minima=(Minimum((3.0, 0.5), 0.0),),
    stationary=(Stationary((0.0, 1.0), SADDLE), Stationary((0.10053793732415836, -2.644513585023125), SADDLE)),
    starts=((1.0, 1.0), (-1.0, 1.0)),
    trials=(_trial("adam", 1000, learning_rate=0.05), _trial("newton", 20)),
    sources=("Beale 1958", LIBRARY),
)

# --- hills and wells ----------------------------------------------------------------------------

_preset(
    "cosine_well",
    "-(cos(x)^2 + cos(y)^2)^2",
    _square(-2.0, 2.0),
    lesson_en="Everywhere between the four tops at (±π/2, ±π/2) descent leads into the well at 0. But the tops are "
    "flat: from (1.4, 1.5) many steps pass before anything seems to happen.",
    lesson_zh="在 (±π/2, ±π/2) 四个顶点之间,下降都通向 0 处的井。但顶部很平:从 (1.4, 1.5) 出发,要过许多步才看得出动"
    "静。",
    en="Well of cosines",
    zh="余弦井",
    minima=(Minimum((0.0, 0.0), -4.0),),
    stationary=(Stationary((math.pi / 2, 0.0), SADDLE), Stationary((0.0, math.pi / 2), SADDLE)),
    starts=((1.4, 1.5), (1.5, 0.1)),
    trials=(_trial("sgd", 100, learning_rate=0.05),),
    sources=("https://en.wikipedia.org/wiki/Gradient",),
)
_preset(
    "hill_and_valley",
    "x*exp(-(x^2 + y^2))",
    _square(-2.0, 2.0),
    lesson_en="The gradient points to the hilltop from everywhere near it. From (0.5, 0.5) descent goes round into "
    "the valley; from (1.5, 0.5) it goes down the far side, where the slope fades away and it never arrives.",
    lesson_zh="山顶附近处处梯度指向山顶。从 (0.5, 0.5) 出发,下降绕进山谷;从 (1.5, 0.5) 出发则从山的另一侧下去,那里坡度"
    "渐渐消失,永远到不了极小点。",
    en="A hill beside a valley",
    zh="山丘与山谷",
    minima=(Minimum((-math.sqrt(0.5), 0.0), -0.4288819424803534),),
    stationary=(Stationary((math.sqrt(0.5), 0.0), MAXIMUM),),
    starts=((0.5, 0.5), (1.5, 0.5)),
    trials=(_trial("sgd", 200, learning_rate=0.1),),
    sources=("https://en.wikipedia.org/wiki/Gradient",),
)
_preset(
    "plateau",
    "-2*exp(-(x - 2)^2 - (y - 1)^2) - exp(-(x + 2)^2 - (y + 1)^2)",
    _square(-5.0, 5.0),
    lesson_en="Far from the two wells gradients vanish: from (4, -1.5) plain descent hardly moves while Adam arrives. "
    "At (-4.5, 4) they are small beside Adam's epsilon too; Rprop, which heeds signs alone, still finds a well.",
    lesson_zh="远离两口井处梯度消失:从 (4, -1.5) 出发,普通梯度下降几乎不动,Adam 却能到达。在 (-4.5, 4) 处,梯度小得连 "
    "Adam 的 epsilon 都比它大;只看符号的 Rprop 仍能找到一口井。",
    aliases=("gaussian_wells",),
    en="Two wells in a plateau",
    zh="平原上的两口井",
    minima=(
        Minimum((1.9999999958776926, 0.9999999979388463), -2.0000000020611535),
        Minimum((-1.9999999835107685, -0.9999999917553842), -1.0000000041223076),
    ),
    stationary=(Stationary((-0.07702058771298881, -0.038510293856494404), SADDLE),),
    starts=((4.0, -1.5), (-4.5, 4.0)),
    trials=(
        _trial("sgd", 300, learning_rate=0.1),
        _trial("adam", 300, learning_rate=0.1),
        _trial("rprop", 300, learning_rate=0.1),
    ),
)
_preset(
    "peaks",
    "3*(1 - x)^2*exp(-x^2 - (y + 1)^2) - 10*(x/5 - x^3 - y^5)*exp(-x^2 - y^2) - exp(-(x + 1)^2 - y^2)/3",
    _square(-3.0, 3.0),
    lesson_en="Three hollows, three tops and three saddle points between them. Three of the starts find a hollow "
    "each; the one at (2, 2) drifts off towards the level ground outside.",
    lesson_zh="三个凹地、三个山顶,之间有三个鞍点。其中三个起点各找到一个凹地,(2, 2) 处的起点则漂向外面的平地。",
    en="Peaks",
    zh="群峰(peaks)",
    minima=(
        Minimum((0.22827892055636909, -1.6255349574999964), -6.551133332835837),
        Minimum((-1.3473962443682108, 0.20451886609700518), -3.04984940280026),
        Minimum((0.2964455538468321, 0.32019624766683435), -0.06493586825552689),
    ),
    stationary=(
        Stationary((-0.009317581959954116, 1.5813679629389998), MAXIMUM),
        Stationary((-0.46002451803438665, -0.6291965087168009), MAXIMUM),
        Stationary((1.285684697241304, -0.004847559075593672), MAXIMUM),
        Stationary((0.4163233216785082, -0.3941450984024246), SADDLE),
        Stationary((-0.2659375568372457, 0.4667399937262694), SADDLE),
        Stationary((1.0982728343350927, 0.8544609795247524), SADDLE),
    ),
    starts=((0.0, -0.5), (-1.0, 1.0), (0.5, 0.5), (2.0, 2.0)),
    trials=(_trial("sgd", 200, learning_rate=0.02),),
    sources=("https://www.mathworks.com/help/matlab/ref/peaks.html",),
)
_preset(
    "easom",
    "-cos(x)*cos(y)*exp(-(x - pi)^2 - (y - pi)^2)",
    _square(0.0, 6.5),
    lesson_en="A hole in an almost level plain. From (2, 2) descent falls in; from (1, 1) gradients of 0.0001 lead to "
    "a dent not even that deep: a gradient knows nothing of what is far away.",
    lesson_zh="几乎水平的平原上的一个洞。从 (2, 2) 出发会落入洞中;从 (1, 1) 出发,约 0.0001 的梯度只通向一个更浅的小坑:"
    "梯度对远处一无所知。",
    en="Easom's function",
    zh="Easom 函数",
    minima=(
        Minimum((math.pi, math.pi), -1.0),
        Minimum((1.3049954504376675, 1.3049954504376675), -8.110223891570066e-05),
        Minimum((1.3049954504376675, 4.978189856741919), -8.110223891570066e-05),
        Minimum((4.978189856741919, 1.3049954504376675), -8.110223891570066e-05),
        Minimum((4.978189856741919, 4.978189856741919), -8.110223891570066e-05),
    ),
    starts=((2.0, 2.0), (1.0, 1.0)),
    trials=(_trial("sgd", 300, learning_rate=0.2), _trial("adam", 300, learning_rate=0.1)),
    sources=(LIBRARY,),
)

# --- several minima -----------------------------------------------------------------------------

_preset(
    "himmelblau",
    "(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
    _square(-5.0, 5.0),
    lesson_en="Four minima of equal depth: four starts around the hilltop find all of them. Newton's method from "
    "there ends on the top or at a saddle point: all it looks for is a gradient of 0.",
    lesson_zh="四个同样深的极小点:山顶周围的四个起点把它们全部找到。牛顿法从那里出发却停在山顶或鞍点:它只寻找梯度为零"
    "的点。",
    en="Himmelblau's function",
    zh="Himmelblau 函数",
    minima=(
        Minimum((3.0, 2.0), 0.0),
        Minimum((-2.805118086952745, 3.131312518250573), 0.0),
        Minimum((-3.779310253377747, -3.2831859912861696), 0.0),
        Minimum((3.5844283403304917, -1.8481265269644036), 0.0),
    ),
    stationary=(
        Stationary((-0.2708445906673476, -0.9230385564799815), MAXIMUM),
        Stationary((-3.0730257507643897, -0.08135304428796751), SADDLE),
        Stationary((-0.12796134673068008, -1.9537149802445763), SADDLE),
        Stationary((0.08667750455539636, 2.884254701174776), SADDLE),
        Stationary((3.385154183607021, 0.07385187983774928), SADDLE),
    ),
    starts=((0.0, 0.0), (-1.0, 0.0), (-1.0, -2.0), (1.0, -2.0)),
    trials=(_trial("sgd", 100, learning_rate=0.01), _trial("newton", 10)),
    sources=("Himmelblau 1972: Applied Nonlinear Programming", SURVEY),
)
_preset(
    "styblinski_tang",
    "(x^4 - 16x^2 + 5x + y^4 - 16y^2 + 5y)/2",
    _square(-5.0, 5.0),
    lesson_en="Two valleys in each direction, one deeper than the other. Balls let go in the four corners come to "
    "rest in four valleys, and only that from (-4, -4) in the deepest.",
    lesson_zh="每个方向有两条谷,一深一浅。在四角放下的球停在四个不同的谷里,只有从 (-4, -4) 放下的落入最深处。",
    en="Styblinski and Tang's function",
    zh="Styblinski–Tang 函数",
    minima=(
        Minimum((-2.903534027771177, -2.903534027771177), -78.33233140754282),
        Minimum((-2.903534027771177, 2.746802770990837), -64.19561235905536),
        Minimum((2.746802770990837, -2.903534027771177), -64.19561235905536),
        Minimum((2.746802770990837, 2.746802770990837), -50.05889331056788),
    ),
    stationary=(Stationary((0.1567312567803401, 0.1567312567803401), MAXIMUM),),
    starts=((-4.0, -4.0), (-4.0, 4.0), (4.0, -4.0), (4.0, 4.0)),
    trials=(_trial("sgd", 200, learning_rate=0.01),),
    sources=("Styblinski, Tang 1990, Neural Networks 3, 467-483", LIBRARY),
)
_preset(
    "mccormick",
    "sin(x + y) + (x - y)^2 - 1.5x + 2.5y + 1",
    ((-1.5, 4.0), (-3.0, 4.0)),
    lesson_en="From (0, 0) descent finds the lower of two valleys, from (3, 3) the upper one. Outside the box they go "
    "on in steps of (π, π), each lower by π than the one before: there is no lowest of all.",
    lesson_zh="从 (0, 0) 出发找到两个谷中较低的,从 (3, 3) 出发找到较高的。框外的谷以 (π, π) 为间隔继续下去,依次低 π:整"
    "体上没有最低点。",
    en="McCormick's function",
    zh="McCormick 函数",
    minima=(
        Minimum((-0.5471975511965977, -1.5471975511965979), -1.9132229549810364),
        Minimum((2.5943951023931957, 1.5943951023931955), 1.2283696986087569),
    ),
    stationary=(Stationary((1.5471975511965979, 0.5471975511965977), SADDLE),),
    starts=((0.0, 0.0), (3.0, 3.0)),
    trials=(_trial("sgd", 100, learning_rate=0.1),),
    sources=(LIBRARY,),
)
_preset(
    "goldstein_price",
    "(1 + (x + y + 1)^2*(19 - 14x + 3x^2 - 14y + 6x*y + 3y^2))"
    "*(30 + (2x - 3y)^2*(18 - 32x + 12x^2 + 48y - 36x*y + 27y^2))",
    _square(-2.0, 2.0),
    lesson_en="Values from 3 to a million. Learning rate 0.0001 works well from (-0.5, -1.2) and explodes from (1.5, "
    "-1). Adam does not mind the scale, but from (1, 1) it too stops in a local minimum, at 840.",
    lesson_zh="函数值从 3 到一百万。学习率 0.0001 从 (-0.5, -1.2) 出发很合适,从 (1.5, -1) 出发却爆炸。Adam 不受尺度影"
    "响,但从 (1, 1) 出发也停在值为 840 的局部极小点。",
    en="Goldstein and Price's function",
    zh="Goldstein–Price 函数",
    minima=(
        Minimum((0.0, -1.0), 3.0),
        Minimum((-0.6, -0.4), 30.0),
        Minimum((1.8, 0.2), 84.0),
        Minimum((1.2, 0.8), 840.0),
    ),
    stationary=(
        Stationary((-0.4, -0.6), SADDLE),
        Stationary((1.2, -0.2), SADDLE),
        Stationary((1.4, 0.6), SADDLE),
        Stationary((0.6, 0.4), SADDLE),
        Stationary((0.8, 0.2), MAXIMUM),
    ),
    starts=((-0.5, -1.2), (1.5, -1.0), (1.0, 1.0)),
    trials=(_trial("sgd", 200, learning_rate=0.0001), _trial("adam", 500, learning_rate=0.02)),
    sources=("Goldstein, Price 1971, Mathematics of Computation 25, 569-574", LIBRARY),
)
_preset(
    "six_hump_camel",
    "(4 - 2.1x^2 + x^4/3)*x^2 + x*y + (-4 + 4y^2)*y^2",
    ((-2.0, 2.0), (-1.2, 1.2)),
    lesson_en="Six minima in mirrored pairs: 0.01 to the left or right of the saddle point at 0 decides which of the "
    "deepest two is reached. From (1.5, 1) plain descent stops in the highest, momentum rolls on to a lower one.",
    lesson_zh="六个极小点两两对称:从 0 处的鞍点向左或向右偏 0.01,决定到达两个最深点中的哪一个。从 (1.5, 1) 出发,普通梯"
    "度下降停在最高的极小点,动量法则滚向较低的一个。",
    en="Six-hump camel",
    zh="六峰驼函数",
    minima=(
        Minimum((0.08984201310031806, -0.7126564030207396), -1.0316284534898774),
        Minimum((-0.08984201310031806, 0.7126564030207396), -1.0316284534898774),
        Minimum((1.703606714969981, -0.7960835686726251), -0.21546382438371764),
        Minimum((-1.703606714969981, 0.7960835686726251), -0.21546382438371764),
        Minimum((1.6071047529201972, 0.5686514548841314), 2.1042503103112584),
        Minimum((-1.6071047529201972, -0.5686514548841314), 2.1042503103112584),
    ),
    stationary=(Stationary((0.0, 0.0), SADDLE),),
    starts=((0.01, 0.0), (-0.01, 0.0), (1.5, 1.0)),
    trials=(_trial("sgd", 200, learning_rate=0.02), _trial("momentum", 200, learning_rate=0.02)),
    sources=(LIBRARY,),
)
_preset(
    "three_hump_camel",
    "2x^2 - 1.05x^4 + x^6/6 + x*y + y^2",
    _square(-3.0, 3.0),
    lesson_en="The deepest of three hollows lies between the others. From (2, 2) and (-2, -1) plain descent stays in "
    "an outer one; momentum rolls out of it and down to 0.",
    lesson_zh="三个凹地中最深的在中间。从 (2, 2) 与 (-2, -1) 出发,普通梯度下降停在外侧的凹地,动量法则越过它滚到 0。",
    en="Three-hump camel",
    zh="三峰驼函数",
    minima=(
        Minimum((0.0, 0.0), 0.0),
        Minimum((-1.7475523458302888, 0.8737761729151444), 0.2986384422368598),
        Minimum((1.7475523458302888, -0.8737761729151444), 0.2986384422368598),
    ),
    stationary=(
        Stationary((-1.07054229182366, 0.53527114591183), SADDLE),
        Stationary((1.07054229182366, -0.53527114591183), SADDLE),
    ),
    starts=((2.0, 2.0), (-2.0, -1.0)),
    trials=(_trial("sgd", 200, learning_rate=0.05), _trial("momentum", 200, learning_rate=0.02)),
    sources=(LIBRARY,),
)
_preset(
    "branin",
    "(y - 5.1x^2/(4*pi^2) + 5x/pi - 6)^2 + 10*(1 - 1/(8*pi))*cos(x) + 10",
    ((-5.0, 10.0), (0.0, 15.0)),
    lesson_en="Three minima of exactly the same value, 5/(4π), along a bent valley: each start finds another. From "
    "(0, 6), a saddle point, nothing moves at all.",
    lesson_zh="弯曲的山谷里有三个极小点,值完全相同,都是 5/(4π):每个起点找到不同的一个。(0, 6) 是鞍点,从那里出发寸步不"
    "移。",
    aliases=("branin_hoo",),
    en="Branin's function",
    zh="Branin 函数",
    minima=(
        Minimum((-math.pi, 12.275), 0.3978873577297383),
        Minimum((math.pi, 2.275), 0.3978873577297383),
        Minimum((3.0 * math.pi, 2.475), 0.3978873577297383),
    ),
    stationary=(Stationary((0.0, 6.0), SADDLE), Stationary((2.0 * math.pi, 1.1), SADDLE)),
    starts=((0.0, 10.0), (6.0, 8.0), (8.0, 8.0), (0.0, 6.0)),
    trials=(_trial("sgd", 200, learning_rate=0.02), _trial("momentum", 300, learning_rate=0.01)),
    sources=("Branin 1972, IBM Journal of Research and Development 16, 504-522", LIBRARY),
)

# --- many minima --------------------------------------------------------------------------------

_preset(
    "rastrigin",
    "20 + x^2 - 10*cos(2*pi*x) + y^2 - 10*cos(2*pi*y)",
    _square(-2.5, 2.5),
    lesson_en="A bowl under waves, with a minimum near every point of whole numbers. From (1.8, 2.2) descent is "
    "caught near (2, 2), and Adam with its longer steps as well; from (0.4, -0.3) it reaches 0.",
    lesson_zh="覆着波浪的碗,每个整数点附近都有极小点。从 (1.8, 2.2) 出发,下降被困在 (2, 2) 附近,步子更大的 Adam 也不例"
    "外;从 (0.4, -0.3) 出发则到达 0。",
    en="Rastrigin's function",
    zh="Rastrigin 函数",
    minima=(
        Minimum((0.0, 0.0), 0.0),
        *_swapped(_mirrored((0.0, 0.9949586376523348), 0.9949590570932914)),
        *_mirrored((0.9949586376523348, 0.9949586376523348), 1.9899181141865827),
        *_swapped(_mirrored((0.0, 1.9899122337085495), 3.9798311905540875)),
        *_swapped(_mirrored((0.9949586376523348, 1.9899122337085495), 4.974790247647379)),
        *_mirrored((1.9899122337085495, 1.9899122337085495), 7.959662381108175),
    ),
    starts=((1.8, 2.2), (0.4, -0.3)),
    trials=(_trial("sgd", 100, learning_rate=0.001), _trial("adam", 300, learning_rate=0.2)),
    sources=("Rastrigin 1974: Systems of Extremal Control", LIBRARY),
)
_preset(
    "ackley",
    "-20*exp(-0.2*sqrt((x^2 + y^2)/2)) - exp((cos(2*pi*x) + cos(2*pi*y))/2) + 20 + e",
    _square(-2.5, 2.5),
    lesson_en="The lowest point is the tip of a cone: the slope does not fade towards it and has no value at it, so "
    "descent from (0.4, -0.3) ends up jittering around 0. From (1.5, 1.7) it is caught in a dent.",
    lesson_zh="最低点是锥尖:越靠近它坡度并不变小,在它那里没有梯度,因此从 (0.4, -0.3) 出发的下降最终在 0 附近抖动。从 "
    "(1.5, 1.7) 出发则被困在小坑里。",
    en="Ackley's function",
    zh="Ackley 函数",
    minima=(
        Minimum((0.0, 0.0), 0.0),
        *_swapped(_mirrored((0.0, 0.9521665459501717), 2.579927557029872)),
        *_mirrored((0.9684776587077244, 0.9684776587077244), 3.57445187725768),
        *_swapped(_mirrored((0.0, 1.9589197181217173), 4.884065258091154)),
        *_swapped(_mirrored((0.9824160350791393, 1.9646166628629864), 5.381864187490192)),
        *_mirrored((1.9744519864841166, 1.9744519864841166), 6.559645375627878),
    ),
    starts=((0.4, -0.3), (1.5, 1.7)),
    trials=(_trial("sgd", 200, learning_rate=0.01),),
    sources=("Ackley 1987: A Connectionist Machine for Genetic Hillclimbing", LIBRARY),
)
_preset(
    "griewank",
    "1 + (x^2 + y^2)/4000 - cos(x)*cos(y/sqrt(2))",
    _square(-8.0, 8.0),
    lesson_en="Waves on a bowl so shallow that it hardly shows: the minima differ by less than 0.01. From (5, -4) "
    "descent ends in one that is 0.0074 too high, and nothing near it says so.",
    lesson_zh="波浪覆在极浅的碗上,几乎看不出碗形:各极小值相差不到 0.01。从 (5, -4) 出发,下降停在高出 0.0074 的一个极小"
    "点,而附近没有任何迹象。",
    en="Griewank's function",
    zh="Griewank 函数",
    minima=(
        Minimum((0.0, 0.0), 0.0),
        *_mirrored((3.1400226338955397, 4.438444480920714), 0.007396040334115082),
        *_mirrored((6.280045279379904, 0.0), 0.009864672061006214),
    ),
    starts=((5.0, -4.0), (1.0, 1.0)),
    trials=(_trial("sgd", 200, learning_rate=0.5),),
    sources=("Griewank 1981, Journal of Optimization Theory and Applications 34, 11-39", LIBRARY),
)
_preset(
    "levy_13",
    "sin(3*pi*x)^2 + (x - 1)^2*(1 + sin(3*pi*y)^2) + (y - 1)^2*(1 + sin(2*pi*y)^2)",
    _square(0.5, 1.5),
    lesson_en="A bowl with waves of period 1/3 along x and ripples along y. From (1.15, 0.8) descent finds the lowest "
    "point; from (1.4, 0.6) plain descent stays in a corner, momentum gets to a better minimum, and neither to "
    "the best.",
    lesson_zh="碗上沿 x 有周期为 1/3 的波浪,沿 y 有起伏。从 (1.15, 0.8) 出发找到最低点;从 (1.4, 0.6) 出发,普通梯度下降"
    "停在角落,动量法到达较好的极小点,但都到不了最好的。",
    en="Lévy's function no. 13",
    zh="Lévy 第 13 号函数",
    minima=(
        Minimum((1.0, 1.0), 0.0),
        *_mirrored((0.3296194745483136, 0.0), 0.10987365835883794, center=1.0),
        *_mirrored((0.3283339434368275, 0.2661067994538178), 0.28871152655530896, center=1.0),
    ),
    starts=((1.15, 0.8), (1.4, 0.6)),
    trials=(_trial("sgd", 300, learning_rate=0.005), _trial("momentum", 300, learning_rate=0.002)),
    sources=(LIBRARY,),
)
_preset(
    "bukin_6",
    "100*sqrt(|y - x^2/100|) + |x + 10|/100",
    ((-15.0, -5.0), (-3.0, 3.0)),
    lesson_en="A crease along y = x^2/100: across it the slope grows without bound, along it it is 0.01. Plain "
    "descent is thrown from side to side; Rprop gets down to the crease and stops there, well short of (-10, 1).",
    lesson_zh="沿 y = x^2/100 的一道折缝:横向坡度无限增大,纵向坡度只有 0.01。普通梯度下降被左右抛来抛去;Rprop 落到折缝"
    "上就停住了,离 (-10, 1) 还有一段距离。",
    aliases=("bukin",),
    en="Bukin's function no. 6",
    zh="Bukin 第 6 号函数",
    minima=(Minimum((-10.0, 1.0), 0.0),),
    starts=((-7.0, 2.0),),
    trials=(_trial("sgd", 300, learning_rate=0.001), _trial("rprop", 300, learning_rate=0.01)),
    sources=(LIBRARY,),
)

# --- more variables -----------------------------------------------------------------------------

_preset(
    "rosenbrock_3",
    "(1 - x)^2 + 100*(y - x^2)^2 + (1 - y)^2 + 100*(z - y^2)^2",
    ((-2.0, 2.0),) * 3,
    lesson_en="Rosenbrock's valley, bent twice. It cannot be drawn any more, but loss and gradient norm tell the same "
    "story: a short fall, then a long way along the floor, which L-BFGS and Newton's method cut short.",
    lesson_zh="弯了两次的罗森布罗克山谷。它已无法画出来,但损失与梯度范数说的是同一件事:先短暂下落,再沿谷底走很长的"
    "路,L-BFGS 与牛顿法则大大缩短这段路。",
    en="Rosenbrock's valley in three variables",
    zh="三变量罗森布罗克山谷",
    minima=(Minimum((1.0, 1.0, 1.0), 0.0),),
    starts=((-1.2, 1.0, 1.0),),
    trials=(
        _trial("momentum", 3000, learning_rate=0.0005),
        _trial("adam", 3000, learning_rate=0.02),
        _trial("l_bfgs", 60),
        _trial("newton", 25),
    ),
    sources=("Rosenbrock 1960, The Computer Journal 3, 175-184", LIBRARY),
)
_preset(
    "powell",
    "(x + 10y)^2 + 5*(z - w)^2 + (y - 2z)^4 + 10*(x - w)^4",
    ((-4.0, 5.0),) * 4,
    lesson_en="Four variables, and at the minimum two eigenvalues of the Hessian are 0. So Newton's method keeps two "
    "thirds of the distance at each step, and plain descent slows down more and more.",
    lesson_zh="四个变量,极小点处黑塞矩阵有两个特征值为零。因此牛顿法每步仍剩下三分之二的距离,普通梯度下降则越来越慢。",
    aliases=("powell_singular",),
    en="Powell's singular function",
    zh="Powell 奇异函数",
    minima=(Minimum((0.0, 0.0, 0.0, 0.0), 0.0),),
    starts=((3.0, -1.0, 0.0, 1.0),),
    trials=(_trial("sgd", 1000, learning_rate=0.005), _trial("newton", 20), _trial("l_bfgs", 50)),
    sources=("Powell 1962, The Computer Journal 5, 147-151", LIBRARY),
)
