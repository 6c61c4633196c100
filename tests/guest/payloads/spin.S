# Says that it runs, then never leaves the guest again.
.include "common.inc"
.global _start
_start:
  putc 'r'
  putc '\n'
1: jmp 1b
