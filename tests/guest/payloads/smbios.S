# Says what stands where the SMBIOS entry point should be, wipes it out, and resets the machine; in its second life it
# says it again and powers off.
.include "common.inc"
.set ENTRY_POINT, 0xf0000      # vmm/machine/address_map.h, kSmbios
.global _start
_start:
  mov $ENTRY_POINT, %ebx
  mov $5, %ecx
  mov $COM1, %dx
1: mov (%rbx), %al
  out %al, %dx
  xor %eax, %eax
  mov %al, (%rbx)
  inc %rbx
  dec %ecx
  jnz 1b
  mov $SCRATCH, %ebx
  mov (%rbx), %ecx
  lea 1(%rcx), %eax
  mov %eax, (%rbx)
  cmp $0, %ecx
  je by_acpi
  putc '\n'
  power_off
by_acpi:
  mov $RESET_VALUE, %al
  mov $RESET_PORT, %dx
  out %al, %dx
8: jmp 8b
