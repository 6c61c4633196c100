# Runs code from where there is neither RAM nor a device: KVM cannot go on, and the VMM must say so.
.include "common.inc"
.global _start
_start:
  mov $0xd0000000, %eax
  jmp *%rax
