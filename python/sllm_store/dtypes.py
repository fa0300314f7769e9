"""The element types of safetensors, by the names that its files use."""

from typing import Final, NamedTuple


class Dtype(NamedTuple):
    """One element type: its size and what torch calls it, where torch has it at all.

    `per_element` is how many stored values one torch element packs (torch's fp4 holds two in a byte).
    """

    name: str
    bits: int
    torch_name: str | None
    per_element: int = 1


DTYPES: Final[dict[str, Dtype]] = {
    dtype.name: dtype
    for dtype in (
        Dtype("BOOL", 8, "bool"),
        Dtype("F4", 4, "float4_e2m1fn_x2", per_element=2),
        Dtype("F6_E2M3", 6, None),
        Dtype("F6_E3M2", 6, None),
        Dtype("U8", 8, "uint8"),
        Dtype("I8", 8, "int8"),
        Dtype("F8_E5M2", 8, "float8_e5m2"),
        Dtype("F8_E4M3", 8, "float8_e4m3fn"),
        Dtype("F8_E8M0", 8, "float8_e8m0fnu"),
        Dtype("F8_E4M3FNUZ", 8, "float8_e4m3fnuz"),
        Dtype("F8_E5M2FNUZ", 8, "float8_e5m2fnuz"),
        Dtype("I16", 16, "int16"),
        Dtype("U16", 16, "uint16"),
        Dtype("F16", 16, "float16"),
        Dtype("BF16", 16, "bfloat16"),
        Dtype("I32", 32, "int32"),
        Dtype("U32", 32, "uint32"),
        Dtype("F32", 32, "float32"),
        Dtype("C64", 64, "complex64"),
        Dtype("F64", 64, "float64"),
        Dtype("I64", 64, "int64"),
        Dtype("U64", 64, "uint64"),
    )
}
