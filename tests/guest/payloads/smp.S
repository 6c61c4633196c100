# Starts CPU 1 by INIT and SIPI through the xAPIC; it writes from real mode to RAM, CPU 0 waits for it.
.include "common.inc"
.set ICR, 0xfee00300
.global _start
_start:
  lea ap_code(%rip), %rsi      # the AP starts at vector 0x60: physical 0x60000
  mov $0x60000, %edi
  mov $(ap_end - ap_code), %ecx
1: mov (%rsi), %al
  mov %al, (%rdi)
  inc %rsi
  inc %rdi
  dec %ecx
  jnz 1b
  movl $0, 0x61000
  mov $ICR, %ebx
  movl $(1 << 24), 0x10(%rbx)
  movl $0x4500, (%rbx)         # INIT
  movl $(1 << 24), 0x10(%rbx)
  movl $0x4660, (%rbx)         # SIPI, vector 0x60
2: cmpl $0x5a5a, 0x61000
  jne 2b
  putc '2'
  putc '\n'
  power_off
.code16
ap_code:
  mov $0x6100, %ax
  mov %ax, %ds
  movw $0x5a5a, 0
3: hlt
  jmp 3b
ap_end:
