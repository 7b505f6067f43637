// SPDX-License-Identifier: Apache-2.0
// void call_with_canaries(function, args, in, out): calls function(args) with in[] in the callee-saved registers, and stores their contents
// afterwards to out[]. Their number and names: preserved_registers_test.cpp.
#if defined(__aarch64__)
.text
.global call_with_canaries
.type call_with_canaries, %function
call_with_canaries:
  stp x29, x30, [sp, -176]!
  stp x19, x20, [sp, 16]
  stp x21, x22, [sp, 32]
  stp x23, x24, [sp, 48]
  stp x25, x26, [sp, 64]
  stp x27, x28, [sp, 80]
  stp d8, d9, [sp, 96]
  stp d10, d11, [sp, 112]
  stp d12, d13, [sp, 128]
  stp d14, d15, [sp, 144]
  str x3, [sp, 160]
  mov x9, x0
  mov x0, x1
  ldp x19, x20, [x2]
  ldp x21, x22, [x2, 16]
  ldp x23, x24, [x2, 32]
  ldp x25, x26, [x2, 48]
  ldp x27, x28, [x2, 64]
  ldr x29, [x2, 80]
  ldp d8, d9, [x2, 88]
  ldp d10, d11, [x2, 104]
  ldp d12, d13, [x2, 120]
  ldp d14, d15, [x2, 136]
  blr x9
  ldr x9, [sp, 160]
  stp x19, x20, [x9]
  stp x21, x22, [x9, 16]
  stp x23, x24, [x9, 32]
  stp x25, x26, [x9, 48]
  stp x27, x28, [x9, 64]
  str x29, [x9, 80]
  stp d8, d9, [x9, 88]
  stp d10, d11, [x9, 104]
  stp d12, d13, [x9, 120]
  stp d14, d15, [x9, 136]
  ldp d14, d15, [sp, 144]
  ldp d12, d13, [sp, 128]
  ldp d10, d11, [sp, 112]
  ldp d8, d9, [sp, 96]
  ldp x27, x28, [sp, 80]
  ldp x25, x26, [sp, 64]
  ldp x23, x24, [sp, 48]
  ldp x21, x22, [sp, 32]
  ldp x19, x20, [sp, 16]
  ldp x29, x30, [sp], 176
  ret
.size call_with_canaries, . - call_with_canaries
.section .note.GNU-stack, "", %progbits
#elif defined(__x86_64__)
.intel_syntax noprefix
.text
.globl call_with_canaries
.type call_with_canaries, @function
call_with_canaries:
  push rbx
  push rbp
  push r12
  push r13
  push r14
  push r15
  push rcx  // with the return address 64 bytes: the stack is aligned
  mov rax, rdi
  mov rdi, rsi
  mov rbx, [rdx]
  mov rbp, [rdx + 8]
  mov r12, [rdx + 16]
  mov r13, [rdx + 24]
  mov r14, [rdx + 32]
  mov r15, [rdx + 40]
  call rax
  pop rcx
  mov [rcx], rbx
  mov [rcx + 8], rbp
  mov [rcx + 16], r12
  mov [rcx + 24], r13
  mov [rcx + 32], r14
  mov [rcx + 40], r15
  pop r15
  pop r14
  pop r13
  pop r12
  pop rbp
  pop rbx
  ret
.size call_with_canaries, . - call_with_canaries
.section .note.GNU-stack, "", @progbits
#endif
