// Who moves a card's frames in this process's stead, between the guest's rings and the back end. The card
// takes what is in here.
#pragma once

#include <functional>
#include <vector>

#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

struct NetVhost {
  // The kernel's vhost-net, one a pair of queues. Empty: the other one.
  struct Pair {
    UniqueFd vhost;  // /dev/vhost-net
    int tap;         // the pair's queue of the tap device: the back end's
  };
  std::vector<Pair> pairs = {};

  // Another program, by vhost-user.
  UniqueFd socket = {};                              // connected
  std::function<Result<UniqueFd>()> reconnect = {};  // anew, once it is lost; any thread
  std::function<void(bool there)> set_link = {};     // whether it is lost; any thread
};

}  // namespace minivmm
