# Exits for the benchmark: N reads of a device register by port and N by MMIO, N in esi's place (SCRATCH + 8).
.include "common.inc"
.global _start
_start:
  putc 'b'
1: mov $COM1 + 5, %dx          # line status: no side effect
  mov $200000, %ecx
2: in %dx, %al
  dec %ecx
  jnz 2b
  putc 'p'
  mov $0xe0000000, %ebx        # ECAM: the host bridge's vendor id
  mov $200000, %ecx
3: mov (%rbx), %eax
  dec %ecx
  jnz 3b
  putc 'm'
  putc '\n'
  power_off
