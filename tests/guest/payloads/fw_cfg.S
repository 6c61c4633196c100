# Reads from the fw_cfg device: the signature by port, then four bytes of its first file by DMA.
.include "common.inc"
.set FW_CFG, 0x510
.global _start
_start:
  mov $0, %eax
  mov $FW_CFG, %dx
  out %ax, %dx
  mov $4, %ecx
1: mov $FW_CFG + 1, %dx
  in %dx, %al
  mov $COM1, %dx
  out %al, %dx
  dec %ecx
  jnz 1b
  mov $SCRATCH, %ebx           # the descriptor, big-endian: select key 0x20, read 4 bytes to SCRATCH + 16
  movl $0x0a002000, (%rbx)
  movl $0x04000000, 4(%rbx)
  movl $0, 8(%rbx)
  movl $0x10003000, 12(%rbx)
  mov $0x00003000, %eax        # SCRATCH, big-endian, to the low half of the address
  mov $FW_CFG + 8, %dx
  out %eax, %dx
  mov (%rbx), %eax             # 0 once the transfer is done
  add $'0', %al
  mov $COM1, %dx
  out %al, %dx
  mov $4, %ecx
  add $16, %ebx
2: mov (%rbx), %al
  out %al, %dx
  inc %ebx
  dec %ecx
  jnz 2b
  putc '\n'
  power_off
