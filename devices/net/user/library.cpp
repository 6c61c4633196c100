#include "devices/net/user/library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm::user_net {

namespace {

std::unexpected<std::string> not_there(const char* file) {
  const char* const why = ::dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps one for each thread
  return std::unexpected(
      fmt::format("cannot load {}, which user networking is made of: {}; install Debian's libslirp0, 4.7 or "
                  "later (apt-get install libslirp0), or write --net none",
                  file, why == nullptr ? "no reason given" : why));
}

// What libslirp logs a guest can cause at will; glib's own handler would write it to stderr.
void discard(const char* /*domain*/, int /*level*/, const char* /*message*/, void* /*data*/) {}

}  // namespace

std::expected<std::shared_ptr<const Library>, std::string> find_library(const char* file) {
  // glib does not survive being unloaded.
  void* const loaded = ::dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (loaded == nullptr) return not_there(file);
  auto library = std::make_shared<Library>();
  bool complete = true;
  const auto find = [&]<class Function>(const char* name, Function& function) {
    if (!complete) return;  // dlerror() tells of the first that is missing
    function = reinterpret_cast<Function>(::dlsym(loaded, name));
    complete = function != nullptr;
  };
  find("slirp_new", library->create);
  find("slirp_cleanup", library->cleanup);
  find("slirp_pollfds_fill", library->pollfds_fill);
  find("slirp_pollfds_poll", library->pollfds_poll);
  find("slirp_input", library->input);
  find("slirp_handle_timer", library->handle_timer);  // since 4.7
  find("slirp_add_hostxfwd", library->add_hostxfwd);
  find("slirp_remove_hostxfwd", library->remove_hostxfwd);
  find("slirp_add_unix", library->add_unix);

  // glib's g_log_set_handler(domain, levels, handler, data), all levels; libslirp's dependency has it.
  using SetHandler = unsigned (*)(const char*, int, decltype(&discard), void*);
  SetHandler set_handler = nullptr;
  find("g_log_set_handler", set_handler);
  if (!complete) return not_there(file);
  constexpr int kAllLevels = ~3;  // G_LOG_LEVEL_MASK
  set_handler("Slirp", kAllLevels, &discard, nullptr);
  return library;
}

std::shared_ptr<const Library> load_library(const char* file) {
  auto library = find_library(file);
  if (!library) throw HostError(ENOENT, library.error());
  return std::move(*library);
}

}  // namespace minivmm::user_net
