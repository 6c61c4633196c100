// libslirp, loaded when the first card with user networking is made: it brings glib along, and machines
// without such a card start faster for its absence.
#pragma once

#include <slirp/libslirp.h>

#include <expected>
#include <memory>
#include <string>

namespace minivmm::user_net {

// Its functions, under their names without the slirp_. What they do is in slirp/libslirp.h.
struct Library {
  decltype(&::slirp_new) create = nullptr;
  decltype(&::slirp_cleanup) cleanup = nullptr;
  decltype(&::slirp_pollfds_fill) pollfds_fill = nullptr;
  decltype(&::slirp_pollfds_poll) pollfds_poll = nullptr;
  decltype(&::slirp_input) input = nullptr;
  decltype(&::slirp_handle_timer) handle_timer = nullptr;
  decltype(&::slirp_add_hostxfwd) add_hostxfwd = nullptr;
  decltype(&::slirp_remove_hostxfwd) remove_hostxfwd = nullptr;
  decltype(&::slirp_add_unix) add_unix = nullptr;
};

inline constexpr const char* kLibraryFile = "libslirp.so.0";

// Or why it is not to be had, and what mends that.
std::expected<std::shared_ptr<const Library>, std::string> find_library(const char* file = kLibraryFile);
// Throws HostError for that.
std::shared_ptr<const Library> load_library(const char* file = kLibraryFile);

}  // namespace minivmm::user_net
