from __future__ import annotations

import pytest

from bench.cubins import Usage
from bench.cuda_sass import loops, main, parse, table
from lepton_compiler.backends.tvm.cuda.tensor_cores import device_of

LISTING = """
	code for sm_90
		Function : product
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
                                                                          /* 0x000fe20000000800 */
        /*0010*/                   IMAD.MOV.U32 R2, RZ, RZ, R1 ;          /* 0x0 */
        /*0020*/              @!P0 LDGSTS.E.BYPASS.128 [R21], desc[UR14][R2.64], P3 ; /* 0x0 */
        /*0030*/                   LDSM.16.M88.4 R4, [R21] ;              /* 0x0 */
        /*0040*/                   HMMA.16816.F32 R8, R4, R6, R8 ;        /* 0x0 */
        /*0050*/                   HMMA.16816.F32 R12, R4, R6, R12 ;      /* 0x0 */
        /*0060*/               @P1 BRA 0x30 ;                             /* 0x0 */
        /*0070*/                   LDGDEPBAR ;                            /* 0x0 */
        /*0080*/              @!P2 BRA 0x20 ;                             /* 0x0 */
        /*0090*/                   EXIT ;                                 /* 0x0 */
        /*00a0*/                   BRA 0xa0;                              /* 0x0 */
		Function : moves
        /*0000*/                   LDG.E.128 R4, desc[UR4][R2.64] ;       /* 0x0 */
        /*0010*/                   STG.E.128 desc[UR4][R2.64], R4 ;       /* 0x0 */
        /*0020*/               @P0 BRA 0x0 ;                              /* 0x0 */
        /*0030*/                   EXIT ;                                 /* 0x0 */
"""


def test_loops_have_what_no_inner_loop_has():
    outer, inner = loops(parse(LISTING)["product"])
    assert (outer.address, outer.depth, inner.address, inner.depth) == (0x20, 0, 0x30, 1)
    assert outer.counts == {"copy": 1, "control": 2}
    assert inner.counts == {"shared load": 1, "tensor": 2, "control": 1}
    assert inner.multiplied == 2 * 16 * 8 * 16


def test_a_loop_takes_as_long_as_what_takes_longest():
    _, inner = loops(parse(LISTING)["product"])
    a100 = device_of("sm_80")
    assert inner.clocks(a100) == {"issue": 4, "tensor": 16, "float32": 0, "shared": 16}
    assert inner.best(a100) == ("tensor", 1.0)
    bound, best = inner.best(device_of("sm_90"))
    assert bound == "shared" and best == pytest.approx(0.8)


def test_groups_of_warps_share_what_they_multiply_and_read():
    listing = """
		Function : grouped
        /*0000*/                   HGMMA.64x128x16.F32 R24, gdesc[UR8], R24 ;  /* 0x0 */
        /*0010*/               @P0 BRA 0x0 ;                                   /* 0x0 */
    """
    (loop,) = loops(parse(listing)["grouped"])
    assert loop.multiplied == 64 * 128 * 16 // 4
    assert loop.clocks(device_of("sm_90a")) == {"issue": 2, "tensor": 64, "float32": 0, "shared": 48}


def test_lines_tell_of_loops_that_multiply_or_else_move():
    usage = {"product": Usage(40, 8, 0), "moves": Usage(16, 0, 0)}
    lines = list(table(usage, parse(LISTING), device_of("sm_80"), []))
    assert lines[0] == "product  sm_80  40 registers  8 bytes local  11 instructions"
    assert (
        "    loop 0030: 4 instructions (2 tensor, 1 shared load, 1 control); clocks: issue 4, tensor 16, shared 16; best 100 % by tensor"
        in lines[2]
    )
    assert lines[4] == "  loop 0000: 3 instructions (1 load, 1 store, 1 control); clocks: issue 3"
    assert len(list(table(usage, parse(LISTING), device_of("sm_80"), ["mov"]))) == 2


def test_what_is_no_code_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path / "missing.cubin")]) == 1
    assert "error:" in capsys.readouterr().err
