// The least that runs a guest with KVM: what a virtual machine of minivmm's shape costs before any VMM adds to it.
// The same memory slots around the hole, the same in-kernel interrupt chips, CPUID, registers; an exit's handler is
// empty but for COM1's data port, which goes to standard output so that the guest can be timed.
//
//   bare MEMORY-MIB PAYLOAD       the payload is an ELF64, entered in long mode with 4 GiB identity-mapped
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { kMostLeaves = 256, kCom1 = 0x3f8 };
static const uint64_t kHole = 0xc0000000, kFourGiB = 0x100000000, kTables = 0x1000;

static void die(const char* what) {
  perror(what);
  exit(1);
}

static int must(int result, const char* what) {
  if (result < 0) die(what);
  return result;
}

static void add_slot(int vm, uint32_t slot, uint64_t gpa, uint64_t size, const uint8_t* host) {
  struct kvm_userspace_memory_region region = {
      .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uint64_t)host};
  must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

static uint8_t* map_memory(uint64_t size) {
  void* at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) die("mmap");
  return at;
}

// Loads the segments below the hole; returns the entry point.
static uint64_t load(const char* path, uint8_t* ram) {
  int fd = must(open(path, O_RDONLY), path);
  Elf64_Ehdr head;
  if (read(fd, &head, sizeof head) != sizeof head) die(path);
  for (int i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr segment;
    if (pread(fd, &segment, sizeof segment, (off_t)(head.e_phoff + i * sizeof segment)) != sizeof segment) die(path);
    if (segment.p_type != PT_LOAD) continue;
    if (pread(fd, ram + segment.p_paddr, segment.p_filesz, (off_t)segment.p_offset) != (ssize_t)segment.p_filesz)
      die(path);
  }
  close(fd);
  return head.e_entry;
}

static void set_cpuid(int kvm, int vcpu) {
  struct kvm_cpuid2* leaves = calloc(1, sizeof *leaves + kMostLeaves * sizeof(struct kvm_cpuid_entry2));
  leaves->nent = kMostLeaves;
  must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, leaves), "KVM_GET_SUPPORTED_CPUID");
  must(ioctl(vcpu, KVM_SET_CPUID2, leaves), "KVM_SET_CPUID2");
  free(leaves);
}

// Long mode: a PML4, a PDPT and four page directories of 2 MiB pages at kTables.
static void set_registers(int vcpu, uint8_t* ram, uint64_t entry) {
  uint64_t* pml4 = (uint64_t*)(ram + kTables);
  uint64_t* pdpt = pml4 + 512;
  uint64_t* pd = pdpt + 512;
  pml4[0] = (kTables + 0x1000) | 3;
  for (uint64_t i = 0; i < 4; ++i) pdpt[i] = (kTables + 0x2000 + i * 0x1000) | 3;
  for (uint64_t i = 0; i < 4 * 512; ++i) pd[i] = i << 21 | 0x83;

  struct kvm_sregs sregs;
  must(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  struct kvm_segment code = {.limit = 0xffffffff, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
  struct kvm_segment data = {.limit = 0xffffffff, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
  sregs.cs = code;
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
  sregs.cr3 = kTables;
  sregs.cr4 = 1 << 5;                       // PAE
  sregs.cr0 = 1U << 31 | 1;                 // paging, protection
  sregs.efer = 1 << 8 | 1 << 10;            // long mode, enabled and active
  must(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = entry, .rflags = 2};
  must(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: bare MEMORY-MIB PAYLOAD\n");
    return 2;
  }
  uint64_t memory = strtoull(argv[1], NULL, 10) << 20;
  int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  uint64_t identity_map = 0xfeffc000;
  must(ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map), "KVM_SET_IDENTITY_MAP_ADDR");
  must(ioctl(vm, KVM_SET_TSS_ADDR, 0xfeffd000), "KVM_SET_TSS_ADDR");
  uint64_t low = memory < kHole ? memory : kHole;
  uint8_t* ram = map_memory(memory);
  add_slot(vm, 0, 0, low, ram);
  if (memory > low) add_slot(vm, 1, kFourGiB, memory - low, ram + low);
  must(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");  // after the slots: they would wait for its SRCU work

  int vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  size_t run_size = (size_t)must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  struct kvm_run* run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  if (run == MAP_FAILED) die("mmap of the vCPU");
  set_cpuid(kvm, vcpu);
  set_registers(vcpu, ram, load(argv[2], ram));

  for (;;) {
    if (ioctl(vcpu, KVM_RUN, 0) < 0) {
      if (errno == EINTR) continue;  // stopped and continued by the benchmark
      die("KVM_RUN");
    }
    switch (run->exit_reason) {
      case KVM_EXIT_IO:
        if (run->io.port == kCom1 && run->io.direction == KVM_EXIT_IO_OUT &&
            write(1, (uint8_t*)run + run->io.data_offset, 1) < 0)
          return 0;
        break;
      case KVM_EXIT_MMIO: break;
      default: fprintf(stderr, "bare: exit reason %u\n", run->exit_reason); return 1;
    }
  }
}
