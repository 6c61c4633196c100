// The network back ends there are: one line each in open_net.cpp, and nothing else anywhere names them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "devices/net/net_backend.h"
#include "devices/net/net_spec.h"
#include "vmm/core/event_loop.h"
#include "vmm/core/log.h"

namespace minivmm {

inline constexpr std::string_view kNoNet = "none";
// What a machine has when the user says nothing.
inline constexpr std::string_view kDefaultNetSpec = "user";
// Why this host cannot give it that; empty: it can.
std::string default_net_missing();

struct NetContext {
  std::string machine = {};  // its identity among this user's machines; may be empty
  unsigned nic = 0;          // index of the card in the machine
  unsigned cpus = 1;         // vCPUs, for the number of queues where the user does not say
  Log& log;                  // outlives the back end
  TimeSource& time;
};

struct NetBackendType {
  std::string_view name;                   // "tap"
  std::string_view help;                   // a few words for --help, keys included
  std::span<const std::string_view> keys;  // its own, beside the common ones of net_spec.cpp
  // Throws ConfigError for settings that make no sense, HostError for what the host refuses.
  std::unique_ptr<NetBackend> (*create)(const NetSpec&, const NetContext&);
  bool shares_memory = false;  // with another process: the guest's has to be shared memory
};

std::span<const NetBackendType> net_backend_types();
const NetBackendType* find_net_backend(std::string_view name);  // null: there is none of that name

// The text of --help for --net: the common settings, and each back end's.
std::string net_help();

// Whether that network's other end has the guest's memory in its hands. Throws ConfigError.
bool net_shares_memory(std::string_view spec);

// The back end with the filters around it that its spec asks for. Null for "none". Throws as create().
std::unique_ptr<NetBackend> open_net(const NetSpec&, const NetContext&);

}  // namespace minivmm
