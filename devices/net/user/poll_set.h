// libslirp's sockets in one epoll(7) set, which is itself a descriptor to wait for. libslirp tells all of
// them, with what it wants of each, as for poll(2); only what differs from last time costs a system call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/core/fd.h"

namespace minivmm::user_net {

class PollSet {
 public:
  PollSet();  // throws HostError

  // Readable while a socket has what is wanted of it; becomes so anew with each new event.
  int fd() const { return epoll_.get(); }

  // Also watched, edge-triggered.
  void watch(int fd);

  // libslirp's news: a socket was opened, is going to be closed. -1 is no socket.
  void opened(int fd);
  void closed(int fd);

  // The list of what is wanted (SLIRP_POLL_*) anew; add() returns the socket's place in it. Sockets that are
  // there from a fill with `permanent` on are the machine's own: its forwarded ports.
  void begin_fill(bool permanent, bool accept);  // accept: connections to the forwarded ports are wanted
  int add(int fd, int events);
  void end_fill();

  // Looks what has happened, without waiting. `sockets`: something that is wanted; `others`: a descriptor of
  // watch().
  struct Ready {
    bool sockets = false;
    bool others = false;
  };
  Ready look();
  // Of the socket in that place, what of the wanted has happened.
  int happened(int place) const;
  void forget_happened();
  // Something wanted may be there: one system call, nothing is taken.
  bool peek() const;

  // Open sockets that are not permanent; and those of them that carry TCP (or may).
  unsigned sessions() const { return sessions_; }
  unsigned streams() const { return streams_; }

  // The permanent ones that the last fill has brought.
  std::span<const int> fresh() const { return fresh_; }

 private:
  enum class Kind : uint8_t { closed, unknown, stream, datagram, permanent };
  struct Socket {
    uint32_t wanted = 0;   // EPOLL*
    uint32_t watched = 0;  // what the kernel knows
    uint32_t happened = 0;
    uint32_t round = 0;  // the last fill that had it
    Kind kind = Kind::closed;
    bool listens = false;
  };

  Socket& socket(int fd);
  void set_kind(Socket& socket, Kind kind);
  void classify(int fd, Socket& socket, uint32_t events);
  void tell_kernel(int fd, Socket& socket);

  UniqueFd epoll_;
  std::vector<Socket> sockets_;  // by descriptor
  std::vector<int> list_;        // place -> descriptor
  std::vector<int> last_list_;
  std::vector<int> happened_;  // descriptors
  std::vector<int> fresh_;
  uint32_t round_ = 0;
  unsigned sessions_ = 0;
  unsigned streams_ = 0;
  bool permanent_ = false;
  bool accept_ = true;
};

}  // namespace minivmm::user_net
