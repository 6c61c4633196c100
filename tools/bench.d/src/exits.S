# Exits at a steady pace, marked on the serial port: "p", then COUNT reads of the line status register (no side
# effect); "m", then COUNT reads of the host bridge's vendor id by ECAM; and again. Only instructions that a software
# KVM's interpreter knows.
.set COM1, 0x3f8
.set ECAM, 0xe0000000

.macro putc char
  mov $\char, %al
  mov $COM1, %dx
  out %al, %dx
.endm

.global _start
_start:
  mov $ECAM, %ebx
1: putc 'p'
  mov $COM1 + 5, %dx
  mov $COUNT, %ecx
2: in %dx, %al
  dec %ecx
  jnz 2b
  putc 'm'
  mov $COUNT, %ecx
3: mov (%rbx), %eax
  dec %ecx
  jnz 3b
  jmp 1b
