// SPDX-License-Identifier: Apache-2.0
// The micro-kernels of kernels/gemm/x86_avx512_bf16.S from their own source, in which instructions of AVX-512 F stand for VDPBF16PS.
#if defined(__x86_64__) && defined(__ELF__)
.section .rodata
.p2align 2
.Lmxcsr_of_vdpbf16ps:
  .long 0x9fc0  // whatever MXCSR says: nearest even, subnormal operands and results as 0, no exceptions

// An assembler macro goes before an instruction of its name. acc += second of a * second of b, then the first; one rounding each. Of the
// registers zmm29 and zmm30 are free in the kernels, and so is the red zone, for they neither call nor push.
.macro vdpbf16ps acc, b, a
  stmxcsr [rsp - 4]
  ldmxcsr [rip + .Lmxcsr_of_vdpbf16ps]
  vpsrld zmm29, \b, 16
  vpslld zmm29, zmm29, 16
  vpsrld zmm30, \a, 16
  vpslld zmm30, zmm30, 16
  vfmadd231ps \acc, zmm29, zmm30
  vpslld zmm29, \b, 16
  vpslld zmm30, \a, 16
  vfmadd231ps \acc, zmm29, zmm30
  ldmxcsr [rsp - 4]
.endm

#include "kernels/gemm/x86_avx512_bf16.S"
#endif
