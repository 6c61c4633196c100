# Resets the machine in four ways, one a life, counting its lives in RAM: a reset leaves RAM as it was.
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
  cmp $3, %ecx
  je by_reset_vector
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
# As Linux does: through 16-bit protected mode into real mode, and to the firmware's first instruction.
by_reset_vector:
  lea real_mode(%rip), %rsi
  mov $0x60000, %edi
  mov $(real_mode_end - real_mode), %ecx
1: mov (%rsi), %al
  mov %al, (%rdi)
  inc %rsi
  inc %rdi
  dec %ecx
  jnz 1b
  lgdt gdt_pointer(%rip)
  ljmp *to_compat(%rip)
.balign 8
to_compat: .long compat
  .word 8
.code32
compat:
  mov $16, %eax
  mov %eax, %ds
  mov %cr0, %eax
  and $0x7fffffff, %eax          # paging off: long mode ends
  mov %eax, %cr0
  mov $0xc0000080, %ecx
  xor %eax, %eax
  xor %edx, %edx
  wrmsr
  ljmp $24, $0
.code16
real_mode:
  mov $32, %ax
  mov %ax, %ds
  mov %ax, %es
  mov %ax, %ss
  mov %cr0, %eax
  and $0xfe, %al
  mov %eax, %cr0
  ljmp $0xffff, $0
real_mode_end:
.code64
.balign 8
gdt: .quad 0
  .quad 0x00cf9b000000ffff       # 8: 32-bit code
  .quad 0x00cf93000000ffff       # 16: data
  .quad 0x00009b060000ffff       # 24: 16-bit code at 0x60000
  .quad 0x000093000000ffff       # 32: 16-bit data
gdt_pointer: .word . - gdt - 1
  .quad gdt
no_idt: .quad 0
  .word 0
