// A shared library that knows nothing of recorders and calls vfork.
#include <unistd.h>

extern "C" pid_t in_child_of_vfork(void (*call)(void*), void* data);

extern "C" pid_t in_child_of_vfork(void (*call)(void*), void* data) {
    const pid_t pid = vfork();
    if (pid == 0) {
        call(data);
        _exit(0);
    }
    return pid;
}
