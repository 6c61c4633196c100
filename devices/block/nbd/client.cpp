#include "devices/block/nbd/client.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "vmm/core/quiet_thread.h"

namespace minivmm::nbd {

using std::chrono::milliseconds;

namespace {

constexpr int kTickMs = 50;  // how often deadlines are looked at, while anybody waits
constexpr milliseconds kConnectLimit{10'000};
constexpr milliseconds kFirstPause{100};  // between two attempts to connect; doubled up to
constexpr milliseconds kLongestPause{2'000};
constexpr unsigned kMaxAttempts = 3;  // with one command: perhaps it is what the server dies of
constexpr const char* kGone = "the NBD server is gone";

Error answer(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT: return {Errc::no_space, "the NBD server has no space left"};
    case ENOTSUP: return {Errc::unsupported, "the NBD server does not offer that"};
    case EPERM: return {Errc::io, "the NBD server does not allow that"};
    default: return {Errc::io, "the NBD server reports an error"};
  }
}

}  // namespace

void Command::Waiter::await_suspend(std::coroutine_handle<> awaiter) {
  handle = awaiter;
  IoPosted::run = [](IoPosted& self) { static_cast<Waiter&>(self).handle.resume(); };
  command->waiter = this;
  client->take(command);
}

Client::Client(std::shared_ptr<const Library> library, std::unique_ptr<Connection> connection,
               ClientOptions options)
    : library_(std::move(library)),
      options_(std::move(options)),
      info_(connection->info()),
      connection_(std::move(connection)) {
  try {
    thread_ = start_quiet_thread("nbd", [this] { serve(); });
  } catch (const std::system_error& e) {
    throw HostError(e.code().value(), fmt::format("cannot start a thread for an NBD disk: {}", e.what()));
  }
}

Client::~Client() {
  {
    const std::scoped_lock lock(mutex_);
    over_ = true;
  }
  wake_.signal();
  thread_.join();
}

Command::Waiter Client::run(IoEngine& engine, std::shared_ptr<Command> command) {
  Command::Waiter waiter;
  waiter.client = this;
  waiter.engine = &engine;
  command->client = this;
  command->deadline = Clock::now() + options_.patience;
  waiter.command = std::move(command);
  return waiter;
}

void Client::take(std::shared_ptr<Command> command) {
  {
    const std::scoped_lock lock(mutex_);
    incoming_.push_back(std::move(command));
  }
  wake_.signal();
}

void Client::serve() {
  for (;;) {
    wake_.consume();  // before we look, so that what comes later is signalled anew
    {
      const std::scoped_lock lock(mutex_);
      if (over_) break;
    }
    take_incoming();
    give_up_late();
    if (connection_) {
      issue();
    } else {
      look_for_server();
    }
    if (connection_) {
      connection_->step(&wake_, patience_ms());
      reap();
    } else {
      pollfd wake{wake_.fd(), POLLIN, 0};
      ::poll(&wake, 1, patience_ms());
    }
  }
  reconnect_.reset();
  if (connection_) connection_->disconnect();
  connection_.reset();  // before the buffers of the commands that were given up
}

int Client::patience_ms() const {
  return waiting_.empty() && issued_.empty() && !reconnect_ ? -1 : kTickMs;
}

void Client::take_incoming() {
  const std::scoped_lock lock(mutex_);
  waiting_.insert(waiting_.end(), std::make_move_iterator(incoming_.begin()),
                  std::make_move_iterator(incoming_.end()));
  incoming_.clear();
}

void Client::finish(Command& command, Result<void> result) {
  if (command.waiter == nullptr) return;
  Command::Waiter& waiter = *std::exchange(command.waiter, nullptr);
  command.stop = nullptr;
  waiter.result = result;
  waiter.engine->post(waiter);  // and is gone
}

// What was sent to the server stays in flight without its waiter; the rest is forgotten.
void Client::give_up_late() {
  const auto now = Clock::now();
  const auto late = [&](Command& command) {
    if (command.waiter == nullptr) return false;
    if (command.stop != nullptr ? !command.stop->give_up() : now < command.deadline) return false;
    finish(command, command.stop != nullptr ? fail(Errc::closed, "given up: the NBD server does not answer")
                                            : fail(Errc::io, "the NBD server does not answer"));
    return true;
  };
  waiting_.remove_if([&](const auto& command) { return late(*command); });
  for (const auto& command : issued_) late(*command);
}

// A change that was given up may still be done by the server, at any time. One that came later, perhaps the
// same one once more, must not be done before it, and then be undone by it.
bool Client::overtakes_given_up(const Command& command) const {
  if (!command.changes()) return false;
  return std::ranges::any_of(issued_, [&](const auto& other) {
    return other->waiter == nullptr && other->changes() && other->offset < command.offset + command.length &&
           command.offset < other->offset + other->length;
  });
}

int on_completed(void* user, int* error) {
  auto* const command = static_cast<Command*>(user);
  command->error = *error;
  command->client->completed_.push_back(command);
  return 1;  // libnbd forgets it
}

namespace {

int on_extents(void* user, const char* context, uint64_t offset, uint32_t* entries, size_t count,
               int* /*error*/) {
  auto* const command = static_cast<Command*>(user);
  constexpr size_t kMaxExtents = 65536;
  if (std::strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || offset != command->offset ||
      !command->extents.empty()) {
    return 0;
  }
  for (size_t i = 0; i + 1 < count && command->extents.size() < kMaxExtents; i += 2) {
    if (entries[i] == 0) break;  // "length MUST be nonzero"
    command->extents.push_back({.length = entries[i], .flags = entries[i + 1]});
  }
  return 0;
}

}  // namespace

// False: libnbd refuses it.
bool Client::issue(Command& c) {
  nbd_handle* const h = connection_->handle();
  const nbd_completion_callback done{.callback = on_completed, .user_data = &c, .free = nullptr};
  switch (c.kind) {
    case Command::Kind::read: return library_->aio_pread(h, c.data.get(), c.length, c.offset, done, 0) >= 0;
    case Command::Kind::write: return library_->aio_pwrite(h, c.data.get(), c.length, c.offset, done, 0) >= 0;
    case Command::Kind::flush: c.changes_before = changes_; return library_->aio_flush(h, done, 0) >= 0;
    case Command::Kind::trim: return library_->aio_trim(h, c.length, c.offset, done, 0) >= 0;
    case Command::Kind::zero:
      return library_->aio_zero(h, c.length, c.offset, done, c.keep_space ? LIBNBD_CMD_FLAG_NO_HOLE : 0) >= 0;
    case Command::Kind::map: {
      c.extents.clear();
      const nbd_extent_callback extents{.callback = on_extents, .user_data = &c, .free = nullptr};
      return library_->aio_block_status(h, c.length, c.offset, extents, done,
                                        c.one_extent ? LIBNBD_CMD_FLAG_REQ_ONE : 0) >= 0;
    }
  }
  return false;
}

void Client::issue() {
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    const auto next = std::next(at);
    Command& command = **at;
    if (command.kind == Command::Kind::flush && (changes_lost_ || !info_.can_flush)) {
      finish(command, changes_lost_ ? Result<void>(fail(Errc::io,
                                                        "the connection to the NBD server was lost, "
                                                        "perhaps with changes it had not stored"))
                                    : Result<void>());
      waiting_.erase(at);
    } else if (!overtakes_given_up(command)) {
      issued_.splice(issued_.end(), waiting_, at);
      command.place = at;
      command.error = 0;
      ++command.attempts;
      if (!issue(command)) {
        if (!connection_->alive()) {  // found out by sending: nothing was done of it
          waiting_.splice(next, issued_, at);
          break;
        }
        finish(command, fail(Errc::io, "libnbd refuses the command"));
        issued_.erase(at);
      }
    }
    at = next;
  }
  reap();
}

void Client::reap() {
  for (Command* command : std::exchange(completed_, {})) end(*command);
  if (connection_ && (shutting_down_ || !connection_->alive())) lose_connection();
}

// What the server answered, or ENOTCONN: nothing, as it is lost.
void Client::end(Command& command) {
  const bool lost = command.error == ENOTCONN || command.error == ESHUTDOWN;
  if (lost && command.waiter != nullptr && command.attempts < kMaxAttempts) {
    shutting_down_ = true;
    waiting_.splice(waiting_.begin(), issued_, command.place);
    return;
  }
  const std::shared_ptr<Command> kept = std::move(*command.place);
  issued_.erase(command.place);
  if (command.error != 0)
    return finish(command, std::unexpected(lost ? Error{Errc::io, kGone} : answer(command.error)));
  if (command.changes() && command.waiter != nullptr) ++changes_;
  if (command.kind == Command::Kind::flush)
    changes_flushed_ = std::max(changes_flushed_, command.changes_before);
  finish(command, {});
}

void Client::lose_connection() {
  connection_.reset();
  // libnbd has ended all of them with an error, unless it was we who closed.
  for (const auto& command : std::list(issued_)) {
    command->error = ENOTCONN;
    end(*command);
  }
  shutting_down_ = false;
  changes_lost_ = changes_lost_ || changes_ > changes_flushed_;
  hope_until_.reset();
  next_attempt_ = Clock::now();
  pause_ = kFirstPause;
  look_for_server();
}

void Client::fail_waiting() {
  for (const auto& command : waiting_) finish(*command, fail(Errc::io, kGone));
  waiting_.clear();
}

bool Client::is_usable(const ExportInfo& info) const {
  return info.size == info_.size && info.minimum_block <= info_.minimum_block &&
         info.maximum_payload >= info_.maximum_payload && (info_.read_only || !info.read_only) &&
         info.can_flush == info_.can_flush && info.can_trim >= info_.can_trim &&
         info.can_zero >= info_.can_zero && info.can_map >= info_.can_map;
}

// Without a connection: attempts are made as long as commands wait for one. The first of them begins the time
// of hope; after that they fail at once, until an attempt that one of them has started succeeds.
void Client::look_for_server() {
  if (options_.endpoint.uri.empty()) return fail_waiting();
  const auto now = Clock::now();
  if (reconnect_ && reconnect_->done()) {
    connection_ = reconnect_->take();
    reconnect_.reset();
    if (connection_ && !is_usable(connection_->info())) connection_.reset();
    if (connection_) return wake_.signal();  // for what waits
    next_attempt_ = now + pause_;
    pause_ = std::min(2 * pause_, kLongestPause);
  }
  if (waiting_.empty()) return;
  if (!hope_until_) hope_until_ = now + options_.reconnect_delay;
  if (!reconnect_ && now >= next_attempt_) {
    try {
      reconnect_ = std::make_unique<Reconnect>(library_, options_.endpoint, kConnectLimit, wake_);
    } catch (const std::system_error&) {  // out of threads or descriptors: perhaps not the next time
      next_attempt_ = now + pause_;
    }
  }
  if (now >= *hope_until_) fail_waiting();
}

}  // namespace minivmm::nbd
