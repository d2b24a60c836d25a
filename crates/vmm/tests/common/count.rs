//! A guest that counts.

use std::os::unix::net::UnixStream;

use super::machine::read_until;

/// Counts on the console and on the disk, where each number has its own sector.
pub(crate) const COUNT: &str = "test.run=i=0;while_true;do_i=$((i+1));\
    echo_$i|dd_of=/dev/vda_bs=512_seek=$i_conv=fsync_2>/dev/null;\
    echo_tick_$i_$?_$(cat_/proc/uptime);usleep_50000;done";

/// One line of the counting guest.
#[derive(Debug, PartialEq)]
pub(crate) struct Tick {
    pub(crate) number: u64,
    /// Whether it is on the disk.
    pub(crate) written: bool,
    /// In seconds.
    pub(crate) uptime: f64,
}

pub(crate) fn next_tick(console: &mut UnixStream) -> Tick {
    loop {
        let line = read_until(console, "\n");
        let mut words = line.split_whitespace().skip_while(|word| *word != "tick").skip(1);
        if let (Some(number), Some(status), Some(uptime)) = (words.next(), words.next(), words.next()) {
            return Tick {
                number: number.parse().unwrap(),
                written: status == "0",
                uptime: uptime.parse().unwrap(),
            };
        }
    }
}
