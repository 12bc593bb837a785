# One start of targetcli that looks at everything; a role that drives it starts it several times for each LUN.
exec targetcli ls
