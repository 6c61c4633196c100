// A card on user networking with a small guest on its cable.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "devices/net/user/user_net.h"
#include "tests/unit/devices/net/host_service.h"
#include "tests/unit/devices/net/net_guest.h"

namespace minivmm::test {

struct UserCable {
  explicit UserCable(const user_net::UserNetConfig& config = {})
      : net(make_user_net(config)), guest(net->queue(0)) {}
  std::unique_ptr<UserNet> net;
  NetGuest guest;
};

inline const user_net::Endpoint kLoopback = at("127.0.0.1", 0);

}  // namespace minivmm::test
