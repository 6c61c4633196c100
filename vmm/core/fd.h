// Owners of what the kernel gives us: file descriptors, event counters, mappings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace minivmm {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset();

 private:
  int fd_ = -1;
};

// eventfd(2), non-blocking and close-on-exec: doorbells, irqfds, wake-ups between our threads.
class EventFd {
 public:
  EventFd();  // throws HostError when the process is out of descriptors
  int fd() const { return fd_.get(); }
  void signal() const;  // never blocks, where the descriptor is only ours
  // The same for one that a program we do not trust has as well, which can fill it and make it a blocking
  // one; a system call more.
  void signal_shared() const;
  bool consume() const;  // true if it had been signalled since the last consume()

 private:
  UniqueFd fd_;
};

// An mmap(2) region, unmapped on destruction.
class Mapping {
 public:
  Mapping() = default;
  // Takes over [address, address + size).
  Mapping(void* address, size_t size) : address_(address), size_(size) {}
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping() { reset(); }

  // Maps `size` bytes; throws HostError naming `what`. Arguments as for mmap(2).
  static Mapping map(size_t size, int protection, int flags, int fd, uint64_t offset, const char* what);

  std::byte* data() const { return static_cast<std::byte*>(address_); }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data(), size_}; }
  void reset();

 private:
  void* address_ = nullptr;
  size_t size_ = 0;
};

}  // namespace minivmm
