"""What is documented about the tensors that a primitive takes on Ascend: a table, checked against every node.

Each row has a source. "CANN: X" is the definition REG_OP(X) in CANN's headers (opp/built-in/op_graph/inc), which aclop
kernels must meet and which the aclnn kernels call, too:
https://www.hiascend.com/document/detail/en/canncommercial/850/API/aolapi/operatorlist_00094.html. "MindSpore: X" is the
docstring of X in the installed wheel. Types that no graph of this package could have, such as complex64, are left out.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Callable, Optional

from ir import INTERNAL, Node, numbers

FLOATS = ("float16", "bfloat16", "float32")
WITH_FLOAT64 = (*FLOATS, "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NUMBERS = (*WITH_FLOAT64, *INTEGERS)
ALL = (*NUMBERS, "bool")
INDICES = ("int32", "int64")
GROUP_NORM = "https://gitcode.com/cann/ops-nn/blob/master/norm/group_norm/docs/aclnnGroupNorm.md"
GROUP_NORM_GRAD = (
    "https://hiascend.com/document/detail/zh/canncommercial/800/apiref/aolapi/context/aclnnGroupNormBackward.md"
)
FUSED = "https://www.mindspore.cn/docs/en/stable/api_python/ops/mindspore.ops.flash_attention_score.html"
FUSED_CANN = (
    "https://hiascend.com/document/detail/zh/canncommercial/800/apiref/aolapi/context/aclnnFlashAttentionScore.md"
)
LAYOUTS = {0: "BSH", 1: "BNSD", 2: "SBH", 3: "BSND", 4: "TND"}  # MindSpore's numbers of fused attention's

Read = Callable[[Node], Iterable[Any]]


def tensors_of(node: Node, inputs: tuple[int, ...]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Types and shapes of the tensors in these inputs, of all without a number."""
    operands = node.operands
    chosen = (operands[i] for i in inputs if i < len(operands)) if inputs else operands
    return (tensor for operand in chosen for tensor in operand)


def types(*inputs: int) -> Read:
    return lambda node: (dtype.lower() for dtype, _ in tensors_of(node, inputs))


def number_of_types(*inputs: int) -> Read:
    return lambda node: [len({dtype for dtype, _ in tensors_of(node, inputs)})]


def ranks(*inputs: int) -> Read:
    return lambda node: (len(shape) for _, shape in tensors_of(node, inputs))


def last_sizes(*inputs: int) -> Read:
    return lambda node: (shape[-1] for _, shape in tensors_of(node, inputs))


def argument(position: int) -> Read:
    """The numbers in an argument: I64(3) -> 3, (I64(0), I64(-1)) -> 0, -1."""
    return lambda node: numbers(node.argument(position).replace("I64", ""))


def attribute(name: str) -> Read:
    return lambda node: [node.attribute(name).strip('"')]


def axis_from_the_end(name: str) -> Read:
    def read(node: Node) -> Iterable[int]:
        (axis,), rank = numbers(node.attribute(name).replace("I64", "")), len(node.operands[0][0][1])
        return [axis if axis < 0 else axis - rank]

    return read


def difference(first: int, second: int) -> Read:
    """Of two arguments that are numbers."""
    return lambda node: [a - b for a, b in zip(argument(first)(node), argument(second)(node))]


def fused_layout(node: Node) -> Iterable[str]:
    return (LAYOUTS[number] for number in argument(-2)(node))


@dataclass(frozen=True)
class Constraint:
    """A row of the table.

    Attributes:
        primitive: it is for.
        subject: what is checked, for messages.
        read: the values in a node.
        allowed: each of them must be in it.
        source: where this is documented.
    """

    primitive: str
    subject: str
    read: Read
    allowed: Container
    source: str

    def problem(self, node: Node) -> Optional[str]:
        """What is wrong with a node of the primitive."""
        wrong = [value for value in dict.fromkeys(self.read(node)) if value not in self.allowed]
        if not wrong:
            return None
        return f"{self.subject} is {', '.join(map(str, wrong))}; documented: {self.allows} ({self.source})"

    @property
    def allows(self) -> str:
        if not isinstance(self.allowed, range):
            return ", ".join(map(str, self.allowed))
        first, last, step = self.allowed[0], self.allowed[-1], self.allowed.step
        return f"{first} to {last}" + (f", a multiple of {step}" if step > 1 else "")


def _of_type(primitive: str, allowed: Container, operator: str = "", inputs: tuple[int, ...] = ()) -> Constraint:
    """The types of these inputs, of all without a number, by the definition of an operator of CANN."""
    return Constraint(primitive, "a type", types(*inputs), allowed, f"CANN: {operator or primitive}")


# primitive, types of the data, CANN's operator if it has another name, the inputs with data if not all
TYPES = (
    ("Abs", ALL),
    ("Add", ALL),
    ("AddN", NUMBERS),
    ("AddScalar", ALL, "Add"),
    ("ArgMaxWithValue", (*FLOATS, *INDICES)),
    ("Argmax", NUMBERS, "ArgMaxV2"),
    ("Argmin", NUMBERS, "ArgMin"),
    ("Assign", ALL),
    ("AssignAdd", NUMBERS),
    ("BatchMatMul", (*FLOATS, "int32", "int8"), "BatchMatMulV2"),
    ("BiasAdd", NUMBERS),
    ("BiasAddGrad", NUMBERS),
    ("BroadcastTo", ALL),
    ("Cast", ALL),
    ("ClampScalar", NUMBERS, "ClipByValue"),
    ("Concat", ALL, "ConcatV2"),
    ("Conv2D", (*FLOATS, "int8")),
    ("Conv2DBackpropFilter", FLOATS),
    ("Conv2DBackpropInput", FLOATS),
    ("CumSum", NUMBERS, "Cumsum"),
    ("Dense", (*FLOATS, "int32", "int8"), "MatMulV2"),
    ("Div", NUMBERS),
    ("Equal", ALL),
    ("Exp", WITH_FLOAT64),
    ("ExpandDims", ALL),
    ("Expm1", WITH_FLOAT64),
    ("Floor", WITH_FLOAT64),
    ("Gather", ALL, "GatherV2", (0,)),
    ("Gather", INDICES, "GatherV2", (1,)),
    ("GatherD", ALL, "GatherElements", (0,)),
    ("GatherD", INDICES, "GatherElements", (2,)),
    ("Greater", NUMBERS),
    ("GreaterEqual", NUMBERS),
    ("IsFinite", ALL),
    ("L2Loss", WITH_FLOAT64),
    ("LayerNorm", FLOATS),
    ("LayerNormGrad", FLOATS),
    ("Less", NUMBERS),
    ("LessEqual", NUMBERS),
    ("Log", ALL),
    ("Log1p", WITH_FLOAT64),
    ("LogSoftmax", WITH_FLOAT64, "LogSoftmaxV2"),
    ("LogSoftmaxGrad", FLOATS),
    ("LogicalAnd", ("bool",)),
    ("LogicalNot", ("bool",)),
    ("LogicalOr", ("bool",)),
    ("MatMul", (*FLOATS, "int32", "int8"), "MatMulV2"),
    ("MaxPoolGrad", NUMBERS),
    ("Maximum", (*WITH_FLOAT64, *INDICES, "int8", "uint8")),
    ("Minimum", (*WITH_FLOAT64, *INDICES, "int8", "uint8")),
    ("Mul", ALL),
    ("Muls", (*FLOATS, "int16", *INDICES)),
    ("Neg", (*WITH_FLOAT64, "int8", *INDICES)),
    ("OneHot", NUMBERS, "", (2, 3)),
    ("Pow", NUMBERS),
    ("PowTensorScalar", NUMBERS, "Pow"),
    ("ReLU", NUMBERS, "Relu"),
    ("RealDiv", ALL),
    ("ReduceMean", NUMBERS),
    ("ReluGrad", NUMBERS),
    ("Reshape", ALL),
    ("ResizeNearestNeighborV2", (*WITH_FLOAT64, "int8", "uint8", "int16", "uint16", *INDICES)),
    ("Rsqrt", WITH_FLOAT64),
    ("RsqrtGrad", (*WITH_FLOAT64, "int32", "int8")),
    ("Select", ("bool",), "", (0,)),
    ("Select", ALL, "", (1, 2)),
    ("SiLU", FLOATS, "Swish"),
    ("SiLUGrad", FLOATS, "SiluGrad"),
    ("Sigmoid", WITH_FLOAT64),
    ("SigmoidGrad", WITH_FLOAT64),
    ("Sign", (*WITH_FLOAT64, *INDICES)),
    ("Softmax", WITH_FLOAT64, "SoftmaxV2"),
    ("SoftmaxBackward", FLOATS, "SoftmaxGrad"),
    ("Sort", (*FLOATS, *INTEGERS)),
    ("Split", NUMBERS),
    ("SplitWithSize", NUMBERS, "Split"),
    ("Sqrt", WITH_FLOAT64),
    ("Square", (*WITH_FLOAT64, *INDICES)),
    ("Squeeze", ALL),
    ("Stack", ALL, "Pack"),
    ("StridedSlice", NUMBERS),
    ("StridedSliceGrad", NUMBERS),
    ("Sub", ALL),
    ("SumExt", NUMBERS, "ReduceSum"),
    ("Tile", ALL),
    ("Transpose", ALL),
    ("UnsortedSegmentSum", NUMBERS, "", (0,)),
    ("UnsortedSegmentSum", INDICES, "", (1,)),
)
FUSED_INPUTS = {"FlashAttentionScore": (0, 1, 2), "FlashAttentionScoreGrad": (0, 1, 2, 3)}

CONSTRAINTS = (
    *(_of_type(*row) for row in TYPES),
    *(
        constraint
        for name, inputs in FUSED_INPUTS.items()
        for constraint in (
            Constraint(name, "a type", types(*inputs), ("float16", "bfloat16"), FUSED),
            Constraint(name, "the number of types", number_of_types(*inputs), (1,), FUSED_CANN),
            Constraint(name, "the layout", fused_layout, ("BSND",), "the one whose sizes this audit reads"),
            Constraint(name, "a rank", ranks(*inputs), (4,), FUSED),
            Constraint(name, "the size of heads", last_sizes(*inputs), range(16, 512 + 1, 16), FUSED),
        )
    ),
    Constraint("AdamWeightDecay", "a type", types(), ("float16", "float32"), "MindSpore: AdamWeightDecay"),
    Constraint("BiasAdd", "a rank", ranks(0), range(2, 5 + 1), "MindSpore: BiasAdd"),
    Constraint("Conv2D", "a rank", ranks(0, 1), (4,), "MindSpore: Conv2D"),
    Constraint("Conv2D", "the number of groups", attribute("group"), ("I64(1)",), "MindSpore: Conv2D"),
    Constraint("Conv2D", "the layout", attribute("format"), ("NCHW",), "MindSpore: Conv2D"),
    Constraint("GroupNorm", "a type", types(0), FLOATS, GROUP_NORM),
    Constraint("GroupNorm", "the number of types", number_of_types(), (1,), GROUP_NORM),
    Constraint("GroupNorm", "a rank", ranks(0), range(2, 8 + 1), GROUP_NORM),
    Constraint("GroupNormGrad", "a type", types(), FLOATS, GROUP_NORM_GRAD),
    Constraint("GroupNormGrad", "a rank", ranks(0, 1), range(2, 8 + 1), GROUP_NORM_GRAD),
    Constraint("LayerNorm", "begin_norm_axis - begin_params_axis", difference(3, 4), (0,), "MindSpore: LayerNorm"),
    Constraint("MatMul", "a rank", ranks(), (2,), "MindSpore: MatMul"),
    Constraint("MaxPool", "a type", types(), ("float16", "float32"), "MindSpore: MaxPool"),
    Constraint("MaxPool", "a rank", ranks(), (4,), "MindSpore: MaxPool"),
    Constraint("OneHot", "a type", types(0), INDICES, "MindSpore: OneHot"),
    Constraint("Sort", "the axis, from the end,", axis_from_the_end("axis"), (-1,), "MindSpore: Sort"),
    Constraint("Tile", "a rank", ranks(), range(8 + 1), "MindSpore: Tile"),
    Constraint("Transpose", "an axis", argument(1), range(8), "MindSpore: Transpose"),
)


@cache
def of(primitive: str) -> list[Constraint]:
    """The rows for a primitive."""
    return [each for each in CONSTRAINTS if each.primitive == primitive]


def violations(node: Node) -> list[str]:
    """What is wrong with a node."""
    if node.primitive in INTERNAL or node.is_dynamic:
        return []
    return [problem for each in of(node.primitive) if (problem := each.problem(node))]
