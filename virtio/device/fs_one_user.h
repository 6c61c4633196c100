// For a file server that an ordinary user runs, in a user namespace where that user is the only one: it drops
// its groups and takes on a guest's user for each request, which the kernel must refuse there, and it would
// give up. With this it is told that it has: everything is done as the one user there is.
#pragma once

namespace minivmm {

// For this thread and the programs it starts (seccomp(2); no new privileges). It is no sandbox: nothing is
// forbidden. Where the kernel has no seccomp, nothing happens.
void let_changes_of_user_pass();

}  // namespace minivmm
