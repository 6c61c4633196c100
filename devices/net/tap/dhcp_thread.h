// Answers the DHCP questions of one guest on a host-only network. Each machine's minivmm answers its own
// guest; which addresses are taken is in the kernel's neighbour table of their bridge, where adding an entry
// fails if it is there.
#pragma once

#include <thread>
#include <vector>

#include "devices/net/links.h"
#include "devices/net/tap/dhcp.h"
#include "vmm/core/fd.h"

namespace minivmm {

class DhcpThread {
 public:
  // Listens on the interface `tap`, a port of `bridge`. Throws HostError.
  DhcpThread(const Link& tap, const Link& bridge, const Ipv4Network& network);
  DhcpThread(const DhcpThread&) = delete;
  DhcpThread& operator=(const DhcpThread&) = delete;
  ~DhcpThread();  // gives the addresses back

 private:
  struct Lease {
    MacAddress card;
    uint32_t address;
  };

  void run();
  std::optional<uint32_t> lease(const MacAddress& card);

  DhcpServer server_;
  int bridge_;
  Links links_;
  std::vector<Lease> leases_;
  UniqueFd socket_;
  EventFd stop_;
  std::thread thread_;
};

}  // namespace minivmm
