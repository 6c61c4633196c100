// LD_PRELOAD: writes the port and MMIO exits of a VMM's vCPU 0 to the file $EXIT_RECORD, in order, for dispatch.cpp.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "exit_record.h"

static int vcpu = -1;
static struct kvm_run* run;
static FILE* file;

static void note(void) {
  struct exit_record record = {0};
  if (run->exit_reason == KVM_EXIT_MMIO) {
    record.address = run->mmio.phys_addr;
    record.size = (uint8_t)run->mmio.len;
    record.is_mmio = 1;
    record.is_write = run->mmio.is_write;
    memcpy(&record.data, run->mmio.data, sizeof record.data);
  } else if (run->exit_reason == KVM_EXIT_IO) {
    record.address = run->io.port;
    record.size = run->io.size;
    record.is_write = run->io.direction == KVM_EXIT_IO_OUT;
    memcpy(&record.data, (char*)run + run->io.data_offset, run->io.size);
  } else {
    return;
  }
  fwrite(&record, sizeof record, 1, file);
}

__attribute__((destructor)) static void finish(void) {
  if (file) fflush(file);
}

void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) {
  static void* (*real)(void*, size_t, int, int, int, off_t);
  if (!real) real = (void* (*)(void*, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
  void* result = real(at, size, protection, flags, fd, offset);
  if (fd >= 0 && fd == vcpu && offset == 0 && !run) run = result;
  return result;
}

// What mmap() is called in programs built with 64-bit file offsets.
void* mmap64(void* at, size_t size, int protection, int flags, int fd, off_t offset) {
  return mmap(at, size, protection, flags, fd, offset);
}

int ioctl(int fd, unsigned long request, ...) {
  static int (*real)(int, unsigned long, void*);
  if (!real) real = (int (*)(int, unsigned long, void*))dlsym(RTLD_NEXT, "ioctl");
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  int result = real(fd, request, argument);
  if (request == KVM_CREATE_VCPU && vcpu < 0) {
    const char* path = getenv("EXIT_RECORD");
    file = path ? fopen(path, "wb") : NULL;
    vcpu = result;
  } else if (request == KVM_RUN && fd == vcpu && result == 0 && file && run) {
    note();
  }
  return result;
}
