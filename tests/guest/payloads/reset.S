# Resets the machine four ways, one a life, counting its lives in RAM: a reset leaves RAM as it was.
.include "common.inc"
.global _start
_start:
  mov $SCRATCH, %ebx
  mov (%rbx), %ecx
  lea 1(%rcx), %eax
  mov %eax, (%rbx)
  mov %cl, %al
  add $'0', %al
  mov $COM1, %dx
  out %al, %dx
  cmp $0, %ecx
  je by_acpi
  cmp $1, %ecx
  je by_keyboard
  cmp $2, %ecx
  je by_triple_fault
  putc '\n'
  power_off
by_acpi:
  mov $RESET_VALUE, %al
  mov $RESET_PORT, %dx
  out %al, %dx
8: jmp 8b
by_keyboard:
  mov $0xfe, %al
  out %al, $0x64
8: jmp 8b
by_triple_fault:
  lidt no_idt(%rip)
  ud2
8: jmp 8b
no_idt: .quad 0
  .word 0
