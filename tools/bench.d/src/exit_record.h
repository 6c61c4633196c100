// One exit as record.c writes it and dispatch.cpp replays it.
#pragma once
#include <stdint.h>

struct exit_record {
  uint64_t address;  // the port, or the guest physical address
  uint64_t data;     // what the guest wrote (the first 8 bytes)
  uint8_t is_mmio;
  uint8_t is_write;
  uint8_t size;  // of one access
  uint8_t pad[5];
};
