# Says "i" on the serial port and then does nothing, for ever: what is measured is how the VMM got here, and what it
# holds. Bears the PVH note that QEMU's direct boot of an ELF needs (XEN_ELFNOTE_PHYS32_ENTRY, 18); the code means the
# same entered in 32 and in 64 bits.
.global _start
_start:
  cli
  mov $'i', %al
  mov $0x3f8, %dx
  out %al, %dx
1: hlt
  jmp 1b

.section .note.pvh, "a", @note
  .long 4, 4, 18
  .asciz "Xen"
  .long _start
