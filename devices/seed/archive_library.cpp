#include "devices/seed/archive_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cerrno>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

[[noreturn]] void not_there(const char* file) {
  const char* const why = ::dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps one for each thread
  throw HostError(ENOENT,
                  fmt::format("cannot load {}, which writes the cloud-init disk: {}; install Debian's "
                              "libarchive13 (apt-get install libarchive13)",
                              file, why == nullptr ? "no reason given" : why));
}

struct Loaded : ArchiveLibrary {
  explicit Loaded(const char* file) : handle(::dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
    if (handle == nullptr) not_there(file);
  }
  Loaded(const Loaded&) = delete;
  Loaded& operator=(const Loaded&) = delete;
  ~Loaded() { ::dlclose(handle); }

  void* handle;
};

}  // namespace

std::shared_ptr<const ArchiveLibrary> load_archive_library(const char* file) {
  auto library = std::make_shared<Loaded>(file);
  const auto find = [&]<class Function>(const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(library->handle, name));
    if (function == nullptr) not_there(file);
  };
  find("archive_write_new", library->write_new);
  find("archive_write_free", library->write_free);
  find("archive_write_set_format_iso9660", library->write_set_format_iso9660);
  find("archive_write_set_options", library->write_set_options);
  find("archive_write_open_fd", library->write_open_fd);
  find("archive_write_header", library->write_header);
  find("archive_write_data", library->write_data);
  find("archive_write_close", library->write_close);
  find("archive_error_string", library->error_string);
  find("archive_entry_new", library->entry_new);
  find("archive_entry_free", library->entry_free);
  find("archive_entry_set_pathname", library->entry_set_pathname);
  find("archive_entry_set_filetype", library->entry_set_filetype);
  find("archive_entry_set_perm", library->entry_set_perm);
  find("archive_entry_set_size", library->entry_set_size);
  find("archive_entry_set_mtime", library->entry_set_mtime);
  return library;
}

}  // namespace minivmm
