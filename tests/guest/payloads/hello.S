.include "common.inc"
.global _start
_start:
  putc 'o'
  putc 'k'
  putc '\n'
  power_off
